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
    """Set a guard's threshold so that it keeps a refusal budget on your traffic.

    The traffic counts as benign: its scores decide what the guard lets pass. `gather_evidence` does the same
    in two steps and also gives the evidence behind the threshold.

    Args:
        guard: the guard to calibrate. It is not changed.
        traffic: files of exchanges, or the scores that the guard gave them.
        plan: budget, exclusions, a second stage and other settings. By default a `CalibrationPlan()`.
        report: called with a file and the number of its exchanges that are read.

    Returns:
        A guard with the threshold and its claim.

    Raises:
        CalibrationError, ConfigError, ExchangeError: as `gather_evidence` does.
    """
    with gather_evidence(guard, traffic, plan, report=report) as evidence:
        return evidence.apply(evidence.choose())
