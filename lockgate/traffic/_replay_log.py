"""Replay of decision logs: recorded scores under another threshold. No text is needed and no model loaded."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lockgate.decisions import deciding_score
from lockgate.durable import file_sha256
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import InvalidCounter
from lockgate.guards import GuardRecord, bundle_folder, read_bundle
from lockgate.traffic._recorded import RecordedDecision, read_decisions
from lockgate.traffic._replayed import Compared, Replay, ReplayPlan, summarise


def replay_decisions(
    guard: str | Path,
    logs: Path | Sequence[Path],
    plan: ReplayPlan | None = None,
    *,
    recorded_by: str | Path | None = None,
) -> Replay:
    """Compare the scores in decision logs with another threshold. No model is loaded.

    This needs no text, but the scores must be those of the guard: the log names what gave them
    (`GuardRecord.measure`). Lines that something else wrote are left out and counted.

    Args:
        guard: folder of the guard whose threshold decides now, or `embedded`.
        logs: decision logs.
        plan: thresholds. By default a `ReplayPlan()`.
        recorded_by: folder of the guard that wrote the log, for logs of versions that do not name what gave
            the scores. It is checked by its hash.

    Raises:
        GuardError: a bundle can't be read.
        ConfigError: the plan names decision logs of its own.
        ExchangeError: a log can't be read, or holds no score that the guard would give.
    """
    plan = ReplayPlan() if plan is None else plan
    if plan.decisions:
        raise ConfigError("decisions: leave them out; the log holds them already")
    files = (logs,) if isinstance(logs, Path) else tuple(logs)
    record, hashes = known_guards(guard, recorded_by)
    left: Counter[str] = Counter()
    lines = list(_usable(files, record, hashes, left))
    scores = [recorded_score(line, record) for _, line in lines]
    rows = Compared(
        ids=[f"{line.id}/{line.choice}" for _, line in lines],
        places=[place for place, _ in lines],
        before=np.array([line.halted for _, line in lines], dtype=bool),
        scores=np.array(scores, dtype=np.float64),
        categories_before=[line.category for _, line in lines],
        categories=[line.category for _, line in lines],
        stages=[line.stage for _, line in lines],
        cut=np.array([line.halted and line.enforced for _, line in lines], dtype=bool),
    )
    decides = record.decides
    return summarise(
        rows,
        decides.flag,
        decides.tolerance,
        plan,
        kind="decisions",
        files=files,
        against="the log",
        left_out=dict(+left),
    )


@dataclass(frozen=True, slots=True)
class _Hashes:
    """What the lines of a log must name: bundles or a measure."""

    bundles: frozenset[str]
    measure: str

    def fit(self, line: RecordedDecision) -> bool:
        return line.guard in self.bundles or line.measure == self.measure


def known_guards(guard: str | Path, recorded_by: str | Path | None) -> tuple[GuardRecord, _Hashes]:
    record, digest = _read_record(guard)
    bundles = {digest}
    if recorded_by is not None:
        other, own = _read_record(recorded_by)
        if other.measure != record.measure:
            raise ExchangeError(
                "recorded_by: this guard's scores are not those of the guard that decides now; its log can't "
                "say what would change. Replay the exchanges with their text"
            )
        bundles.add(own)
    return record, _Hashes(frozenset(bundles), record.measure)


def _read_record(guard: str | Path) -> tuple[GuardRecord, str]:
    folder = bundle_folder(guard)
    return read_bundle(folder).record, file_sha256(folder / "guard.yaml")


def _usable(
    files: Sequence[Path], record: GuardRecord, hashes: _Hashes, left: Counter[str]
) -> Iterator[tuple[tuple[int, int], RecordedDecision]]:
    """Yield the lines whose scores are those of the guard.

    Raises:
        ExchangeError: there are none.
    """
    used, others, seen = 0, 0, set()
    for number, path in enumerate(files):
        invalid = InvalidCounter()
        for row, line in read_decisions(path, invalid):
            if (line.id, line.choice) in seen:
                left["repeated lines of the log"] += 1
                continue
            seen.add((line.id, line.choice))
            if line.guard is None:
                left["lines without a guard"] += 1
            elif not hashes.fit(line):
                others += 1
            elif line.decision == "error":
                left["exchanges that could not be checked when they were recorded"] += 1
            else:
                used += 1
                yield (number, row), line
        left["malformed lines of the log"] += invalid.count
    if used == 0:
        named = ", ".join(str(path) for path in files)
        raise ExchangeError(
            f"log: {named}: no line has scores of guard {record.name} ({others} lines were written by "
            "another guard). Give the guard that wrote the log, or replay the exchanges with their text"
        )
    left["lines with the scores of another guard"] += others


def recorded_score(line: RecordedDecision, record: GuardRecord) -> float:
    flag_on = record.thresholds.flag_on
    return deciding_score(
        line.scores, two_stages=record.cascade is not None, flag_on=flag_on, flagged=line.halted
    )
