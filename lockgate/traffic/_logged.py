"""Exchanges of a decision log as evidence: for a threshold, and for the rate of refusals."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lockgate.calibration import Exclusion
from lockgate.calibration.sequential import RateTest, watch_rate
from lockgate.decisions import ContentReader, Stored, open_log
from lockgate.errors import CalibrationError, ExchangeError
from lockgate.exchanges import Exchange, exchange_from_dict, prompt_group
from lockgate.tables import ScoresTable
from lockgate.traffic._recorded import RecordedDecision
from lockgate.traffic._replay_log import known_guards, recorded_score

_NO_TEXT = "exchanges whose text the log does not keep, or not readably"


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """One exchange of a log, without its text.

    Attributes:
        id: the response's id and the number of the answer in it, as RESPONSE/NUMBER.
        halted: whether the guard flagged it, also if that was only noted.
        shadow: whether flags were only noted, so that the score is that of the whole answer.
        score: the score that decides; minus infinity if there was none to give.
        tokens: length of prompt and answer in the guard's tokens.
        group: key of the prompt; None if its text can't be read.
        exchange: id of the exchange as its text gives it; None without text.
    """

    id: str
    halted: bool
    shadow: bool
    score: float
    max_prompt: float | None
    max_answer: float | None
    stage: int
    category: str | None
    tokens: int
    group: str | None = None
    exchange: str | None = None


@dataclass(frozen=True, slots=True)
class LoggedTraffic:
    """What decision logs say about a guard's exchanges, in the order of time.

    Attributes:
        rows: the exchanges that the guard has judged to their end.
        left_out: numbers of the other records, by reason.
    """

    rows: Sequence[LoggedRow]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def confirmed(self, harmful: frozenset[str]) -> tuple[Exclusion, ...]:
        """Return the rows that are no benign traffic.

        Args:
            harmful: ids of exchanges (`Exchange.id`) that reviewers found harmful.
        """
        return tuple(Exclusion(row.id, "reviewed as harmful") for row in self.rows if row.exchange in harmful)

    def table(self) -> ScoresTable:
        """Return the scores of the exchanges in shadow mode, for `gather_evidence`.

        An answer that was stopped has no score of the whole, and leaving such rows out would move the
        threshold. So rows of other modes are no evidence. In canary mode chance decides which those are.

        Raises:
            CalibrationError: there is no exchange in shadow mode, or the log keeps none of their texts.
        """
        shadow = [row for row in self.rows if row.shadow]
        if not shadow:
            raise CalibrationError(
                f"log: none of its {len(self.rows)} exchanges was recorded in shadow mode; scores of "
                "answers that may be stopped set no threshold. Serve with `mode: shadow` or `mode: canary` "
                "for a while"
            )
        usable = [_table_row(number, row) for number, row in enumerate(shadow, 1) if row.group is not None]
        if not usable:
            raise CalibrationError(
                f"log: keeps no readable text of its {len(shadow)} exchanges in shadow mode, and without it "
                "distinct prompts can't be counted; set `log.content` to redacted, encrypted or full (for "
                "encrypted give --key)"
            )
        return ScoresTable.from_rows(usable)

    def watch(
        self, budget: float, harmful: frozenset[str] = frozenset(), confidence: float = 0.95
    ) -> RateTest:
        """Test whether the rate of flags has left the budget, in the order of time.

        Each distinct prompt counts once, by its first exchange. Without text each exchange counts.

        Args:
            harmful: ids of exchanges that reviewers found harmful. They are no benign traffic.
        """
        seen: set[str] = set()
        flagged, n = [], 0
        for row in self.rows:
            if row.exchange in harmful or row.group in seen:
                continue
            if row.group is not None:
                seen.add(row.group)
            n += 1
            if row.halted:
                flagged.append(n)
        return watch_rate(n, flagged, budget, confidence)


def read_logged(
    guard: str | Path,
    logs: Sequence[str | Path],
    *,
    key: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> LoggedTraffic:
    """Read the exchanges whose scores a guard has given, or would give, from decision logs.

    Args:
        guard: the guard's folder, or `embedded`. No model is loaded.
        logs: files of SQLite or addresses of PostgreSQL.
        key: private key for sealed texts.
        since, until: only records handed to the log at this time or later, and before that time.

    Raises:
        GuardError: the bundle can't be read.
        DecisionLogError: a log can't be read, or the key is another one.
        ExchangeError: no record has scores that the guard would give.
    """
    record, hashes = known_guards(guard, None)
    reader = ContentReader(key)
    left: Counter[str] = Counter()
    rows: list[LoggedRow] = []
    for stored in _records(logs, since, until):
        line = msgspec.convert(stored.record, RecordedDecision)
        reason = _reason_to_leave(line, fits=hashes.fit(line))
        if reason is not None:
            left[reason] += 1
            continue
        exchange = _exchange(stored, reader)
        if exchange is None:
            left[_NO_TEXT] += 1
        rows.append(_row(stored.record, line, recorded_score(line, record), exchange))
    if not rows:
        named = ", ".join(str(log) for log in logs)
        raise ExchangeError(f"log: {named}: no record has scores that guard {record.name} would give")
    return LoggedTraffic(rows, dict(left))


def _records(logs: Sequence[str | Path], since: str | None, until: str | None) -> Iterator[Stored]:
    for log in logs:
        with open_log(log) as opened:
            yield from opened.records(since=since, until=until)


def _reason_to_leave(line: RecordedDecision, *, fits: bool) -> str | None:
    if line.guard is None:
        return "exchanges without a guard"
    if not fits:
        return "exchanges that another guard judged"
    if line.decision == "error":
        return "exchanges that could not be checked"
    if line.decision == "cancelled":
        return "exchanges that their clients broke off"
    return None


def _exchange(stored: Stored, reader: ContentReader) -> Exchange | None:
    if stored.content is None or stored.content_mode is None:
        return None
    text = reader.read(stored.content, stored.content_mode)
    if text is None:
        return None
    messages = [{"role": turn.role, "content": turn.content} for turn in text.messages]
    try:
        return exchange_from_dict({"messages": messages})
    except ExchangeError:
        return None


def _row(
    record: Mapping[str, Any], line: RecordedDecision, score: float, exchange: Exchange | None
) -> LoggedRow:
    return LoggedRow(
        id=f"{line.id}/{line.choice}",
        halted=line.halted,
        shadow=record.get("mode") == "shadow",
        score=score,
        max_prompt=line.scores.max_prompt,
        max_answer=line.scores.max_answer,
        stage=line.stage or 1,
        category=line.category,
        tokens=int(record.get("prompt_tokens", 0)) + int(record.get("completion_tokens", 0)),
        group=None if exchange is None else prompt_group(exchange),
        exchange=None if exchange is None else exchange.id,
    )


def _table_row(number: int, row: LoggedRow) -> dict[str, Any]:
    known = [score for score in (row.max_answer, row.max_prompt) if score is not None]
    unknown = ("label", "classifier_max", "flag_token")
    spent = [f"{what}_stage{stage}" for what in ("flops", "cpu_s") for stage in (1, 2)]
    return {
        **dict.fromkeys(unknown),
        **dict.fromkeys(spent, 0.0),
        "row": number,
        "id": row.id,
        "source": "decision log",
        "category": row.category,
        "probe_max": known[0] if known else row.score,
        "max_prompt": row.max_prompt,
        "max_answer": row.max_answer,
        "mixed_max": row.score,
        "flagged": row.halted,
        "stage": row.stage,
        "tokens_stage1": row.tokens,
        "tokens_stage2": 0,
        "prompt_group": row.group,
        "length": row.tokens,
    }
