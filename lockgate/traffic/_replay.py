"""Replay of recorded exchanges: another guard or threshold scores them again."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lockgate.durable import lock_folder
from lockgate.errors import ConfigError, ExchangeError
from lockgate.exchanges import Exchange, InvalidCounter, read_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic._evidence import Report, silent
from lockgate.traffic._recorded import RecordedDecision, read_decisions
from lockgate.traffic._replayed import Compared, Replay, ReplayPlan, summarise
from lockgate.traffic._staging import score_once

_Key = tuple[str, int]


def replay(
    guard: Guard,
    traffic: Path | Sequence[Path],
    plan: ReplayPlan | None = None,
    *,
    against: Guard | None = None,
    report: Report = silent,
) -> Replay:
    """Score recorded exchanges again, and count which decisions change.

    The decisions before come from the plan's decision logs, or from the guard `against`. Without either,
    every exchange counts as admitted.

    An exchange belongs to a line of the log if its field `id` (or `meta.id`) is the id of the response, and
    `choice` the number of the answer (0 if there is none), or if its own id is that id. What has no partner
    is counted in `Replay.left_out`, and so are lines of exchanges that could not be checked.

    Args:
        guard: the guard that decides now.
        traffic: files of exchanges.
        plan: thresholds, decision logs and other settings. By default a `ReplayPlan()`.
        against: the guard that decided before.
        report: called with a file and the number of its exchanges that are read.

    Raises:
        ConfigError: both a log and another guard are given, or another run works in the scratch folder.
        ExchangeError: a file can't be read, or the log has no line for any exchange.
    """
    plan = ReplayPlan() if plan is None else plan
    files = (traffic,) if isinstance(traffic, Path) else tuple(traffic)
    if plan.decisions and against is not None:
        raise ConfigError("against: give either the decisions of the log or another guard")
    left: Counter[str] = Counter()
    known = _read_log(plan.decisions, left)
    places, partners = _find_partners(files, plan, known, left)
    with _folder(plan.scratch) as folder:
        tables = _score(guard, files, plan, folder, report)
        others = None if against is None else _score(against, files, plan, folder, report)
    rows = _compare(guard, tables, places)
    if plan.decisions:
        rows = _after_log(rows, partners, left)
    elif others is not None:
        rows = replace(rows, before=others.flagged, categories_before=_categories(others))
    decides = guard.record.decides
    return summarise(
        rows,
        decides.flag,
        decides.tolerance,
        plan,
        kind="traffic",
        files=files,
        against="the log" if plan.decisions else "nothing" if against is None else "another guard",
        left_out=dict(+left),
        skip_invalid=plan.skip_invalid,
    )


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    if scratch is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    busy = ConfigError(f"{scratch}: another run works in this folder; wait for it or take another place")
    with lock_folder(scratch, busy):
        yield scratch


def _score(
    guard: Guard, files: Sequence[Path], plan: ReplayPlan, folder: Path, report: Report
) -> ScoresTable:
    # A guard that is only in memory has no hash, so nothing can be kept for it.
    own = folder / guard.sha256[:16] if guard.path else Path(tempfile.mkdtemp(dir=folder))
    own.mkdir(exist_ok=True)
    options: dict[str, Any] = {"workers": plan.workers, "skip_invalid": plan.skip_invalid, "report": report}
    tables = [ScoresTable.read(score_once(guard, path, own, **options)) for path in files]
    # A table without rows lacks the extra columns.
    return ScoresTable.concat([table for table in tables if len(table)])


def _categories(table: ScoresTable) -> list[str | None]:
    return table.texts("verdict_category") if table.has("verdict_category") else [None] * len(table)


def _compare(guard: Guard, table: ScoresTable, places: Sequence[tuple[int, int]]) -> Compared:
    """Return the scores of exchanges that all count as admitted."""
    scores = table.floats("mixed_max")
    if guard.stages.count == 1 and guard.thresholds.flag_on == "answer":
        # A prompt alone is ranked by its own maximum, which can't flag here.
        scores = np.where(np.isnan(table.floats("max_answer")), -np.inf, scores)
    return Compared(
        ids=table.ids,
        places=places,
        before=np.zeros(len(table), dtype=bool),
        scores=scores,
        categories_before=[None] * len(table),
        categories=_categories(table),
        stages=[int(stage) for stage in table.floats("stage")],
        cut=np.zeros(len(table), dtype=bool),
    )


def _after_log(
    rows: Compared, partners: Sequence[tuple[_Key, RecordedDecision] | None], left: Counter[str]
) -> Compared:
    """Return the exchanges with a line in the log, with its decisions."""
    kept, told = [], []
    for row, partner in enumerate(partners):
        if partner is None:
            continue
        if partner[1].decision == "error":
            left["exchanges that could not be checked when they were recorded"] += 1
            continue
        kept.append(row)
        told.append(partner[1])
    return Compared(
        ids=[rows.ids[row] for row in kept],
        places=[rows.places[row] for row in kept],
        before=np.array([line.halted for line in told], dtype=bool),
        scores=rows.scores[kept],
        categories_before=[line.category for line in told],
        categories=[rows.categories[row] for row in kept],
        stages=[rows.stages[row] for row in kept],
        cut=np.array([line.halted and line.enforced for line in told], dtype=bool),
    )


def _read_log(logs: Sequence[Path], left: Counter[str]) -> dict[_Key, RecordedDecision]:
    """Return the lines of decision logs by response and answer. The last line on an answer counts."""
    known: dict[_Key, RecordedDecision] = {}
    for path in logs:
        invalid = InvalidCounter()
        for _, line in read_decisions(path, invalid):
            left["repeated lines of the log"] += (line.id, line.choice) in known
            known[line.id, line.choice] = line
        left["malformed lines of the log"] += invalid.count
    return known


def _find_partners(
    files: Sequence[Path], plan: ReplayPlan, known: dict[_Key, RecordedDecision], left: Counter[str]
) -> tuple[list[tuple[int, int]], list[tuple[_Key, RecordedDecision] | None]]:
    """Return the place of each exchange, and its line in the log.

    Raises:
        ExchangeError: there is no exchange, or the log has a line for none.
    """
    places: list[tuple[int, int]] = []
    partners: list[tuple[_Key, RecordedDecision] | None] = []
    invalid = InvalidCounter()
    for number, path in enumerate(files):
        rows = read_exchanges(path, skip_invalid=plan.skip_invalid, on_invalid=invalid)
        for row, exchange in enumerate(rows, 1):
            places.append((number, row))
            key = next((key for key in _keys(exchange) if key in known), None) if known else None
            partners.append(None if key is None else (key, known[key]))
    left["malformed exchanges"] += invalid.count
    if not places:
        raise ExchangeError(f"log: {', '.join(map(str, files))}: no exchange; there is nothing to replay")
    if not plan.decisions:
        return places, partners
    matched = {partner[0] for partner in partners if partner is not None}
    left["lines of the log without an exchange"] += len(known) - len(matched)
    left["exchanges without a line in the log"] += sum(partner is None for partner in partners)
    if not matched:
        raise ExchangeError(
            "decisions: no line belongs to an exchange of the traffic; an exchange needs the id of the "
            "response in its field `id`"
        )
    return places, partners


def _keys(exchange: Exchange) -> Iterator[_Key]:
    choice = exchange.meta.get("choice")
    number = choice if isinstance(choice, int) else 0
    given = exchange.meta.get("id")
    if isinstance(given, str):
        yield given, number
    yield exchange.id, number
