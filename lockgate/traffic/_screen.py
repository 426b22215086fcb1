"""Training exchanges chosen by stage 1: what it lets through to stage 2, and some of the rest."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lockgate.errors import ConfigError, GuardError
from lockgate.exchanges import Exchange, read_exchanges
from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic._plan import ScreenPlan
from lockgate.traffic._staging import score_once


class Screened(NamedTuple):
    """Exchanges that a screen has chosen for training.

    Attributes:
        rows: the chosen exchanges, in order.
        facts: guard, threshold and counts, for the record of what is trained on them.
    """

    rows: list[Exchange]
    facts: dict[str, Any]


def screen_threshold(guard: Guard, plan: ScreenPlan) -> float:
    """Return the corrected reading (see `Cascade`) above which the screen asks stage 2.

    Raises:
        ConfigError: the guard has one stage, and the plan names no threshold.
        GuardError: the guard is not saved, so that no score could be kept.
    """
    if guard.path is None:
        raise GuardError("screening keeps scores by the hash of the guard's bundle; save the guard first")
    if plan.above is not None:
        return plan.above
    if guard.cascade is None:
        raise ConfigError(
            "screen: the guard has one stage, so it has no escalation threshold; name one with --screen-above"
            " (the cut in the manifest of a mined file is one), or give a guard of two stages"
        )
    return guard.cascade.escalate


def screen_exchanges(
    guard: Guard,
    files: Sequence[Path],
    plan: ScreenPlan,
    folder: Path,
    *,
    report: Callable[[Path, int], None] = lambda _path, _done: None,
) -> Screened:
    """Choose training exchanges by the scores of a guard's stage 1.

    All harmful exchanges are chosen. Of the harmless ones these are chosen: those that stage 1 would hand to
    stage 2, and a share of the others. Whether an exchange is drawn depends on the exchange and the seed
    alone. Exchanges without a label or an answer are left out, since they can't train.

    Args:
        guard: the guard whose probe screens.
        files: files of labelled exchanges.
        plan: settings.
        folder: folder for the scores, without text. An interrupted run continues there.
        report: called after each chunk with the file and the number of its exchanges that are done.

    Raises:
        ConfigError, GuardError: as `screen_threshold` does.
        ExchangeError: a file can't be read.
    """
    above = screen_threshold(guard, plan)
    rows: list[Exchange] = []
    counts: Counter[str] = Counter()
    for path in files:
        table = ScoresTable.read(
            score_once(
                guard,
                path,
                folder,
                workers=plan.workers,
                screen=True,
                skip_invalid=plan.skip_invalid,
                report=report,
            )
        )
        scores = table.floats("mixed_max").tolist()
        for row, score in zip(read_exchanges(path, skip_invalid=plan.skip_invalid), scores, strict=True):
            fate = _fate(row, score, above, plan)
            counts[fate] += 1
            if fate in ("harmful", "above", "drawn"):
                rows.append(row)
    return Screened(
        rows,
        {
            "guard": {"sha256": guard.sha256, "probe_sha256": guard.record.probe_sha256},
            "above": above,
            "keep": plan.keep,
            "seed": plan.seed,
            "counts": {name: counts[name] for name in ("harmful", "above", "drawn", "left_out", "unusable")},
        },
    )


def _fate(row: Exchange, score: float, above: float, plan: ScreenPlan) -> str:
    if row.label is None or row.is_prompt_only:
        return "unusable"
    if row.label >= 0.5:
        return "harmful"
    # A reading that is not a number is suspicious, as in serving.
    if math.isnan(score) or score > above:
        return "above"
    return "drawn" if _draw(row, plan.seed) < plan.keep else "left_out"


def _draw(row: Exchange, seed: int) -> float:
    """Return a number from 0 to below 1 that depends on the exchange and the seed alone."""
    digest = hashlib.sha256(f"{seed}/{row.id}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
