"""Calibration in one call."""

from collections.abc import Sequence
from pathlib import Path

from lockgate.guards import Guard
from lockgate.tables import ScoresTable
from lockgate.traffic._evidence import Report, gather_evidence, silent
from lockgate.traffic._plan import CalibrationPlan


def calibrate(
    guard: Guard,
    traffic: Path | Sequence[Path] | ScoresTable,
    plan: CalibrationPlan | None = None,
    *,
    report: Report = silent,
) -> Guard:
    """A guard whose threshold keeps a refusal budget on your traffic.

    The traffic counts as benign: what is in it is what the guard will let pass. `gather_evidence` gives the
    same in two steps, with what stands behind the threshold.

    Args:
        traffic: files of exchanges, or the scores that the guard gave them.
        plan: budget, exclusions, a second stage and the rest.
        report: told how many exchanges of which file are read.

    Raises:
        CalibrationError, ConfigError, ExchangeError: as `gather_evidence` does.
    """
    with gather_evidence(guard, traffic, plan, report=report) as evidence:
        return evidence.apply(evidence.choose())
