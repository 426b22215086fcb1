"""The report of a second stage that reads all of the traffic: a classifier, a text baseline, or both."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import CascadeCalibration
from lockgate.judges import JudgeCost
from lockgate.traffic._judge_report import STAGE_BEHIND, Comparer, Correlation, JudgeReport, probe_scores
from lockgate.traffic._staging import StagedScores

_OVER = "all of the traffic"


def report_mixture(
    names: Sequence[str],
    benign: StagedScores,
    loud: StagedScores | None,
    found: CascadeCalibration,
    settings: dict[str, Any],
) -> JudgeReport:
    """Describe what a second stage costs, how it goes with the probe, and what it gains at the budget.

    Its cost behind the probe is that of the exchanges that it is asked about, read as a whole.

    Args:
        names: the judges of the second stage.
        benign: the traffic, its rows with an answer, with the second stage's verdict on each block.
        loud: harmful development exchanges; None without them.
        found: how the stages were put together.
        settings: `budget`, `confidence` and `exclusions` of `choose_threshold`.

    Raises:
        CalibrationError: a score is not finite.
    """
    flag_on = found.flag_on
    comparer = Comparer(None, benign.table, None if loud is None else loud.table, settings)
    probe, stage = probe_scores(benign.table, flag_on), _largest(benign, flag_on)
    mixed = benign.mixed_by(found.cascade, flag_on)
    harmful: dict[str, Any] = {"probe": None, "stage": None, "mixed": None}
    if loud is not None:
        harmful = {
            "probe": probe_scores(loud.table, flag_on),
            "stage": _largest(loud, flag_on),
            "mixed": loud.mixed_by(found.cascade, flag_on),
        }
    asked = np.isfinite(mixed)
    rows = (
        comparer.alone("probe alone", probe, harmful["probe"], JudgeCost(), 0.0),
        comparer.arranged(
            STAGE_BEHIND, found.calibration, harmful["mixed"], _cost(benign, asked), found.escalated
        ),
        comparer.alone(
            "second stage alone", stage, harmful["stage"], _cost(benign, np.ones(len(mixed), bool)), 1.0
        ),
    )
    voices = {
        name: Correlation.of(_OVER, probe.tolist(), [_highest(row, flag_on) for row in logits])
        for name, logits in benign.voices.items()
    }
    correlation = Correlation.of(_OVER, probe.tolist(), stage.tolist())
    return JudgeReport(" and ".join(names), "second stage", "", None, correlation, rows, voices)


def _largest(scores: StagedScores, flag_on: str) -> NDArray[np.float64]:
    """Return the second stage's largest verdict on each exchange [N] in the regions that may flag."""
    found = [_highest(np.asarray(verdicts), flag_on) for _, verdicts in scores.traces]
    return np.array(found, dtype=np.float64)


def _highest(verdicts: NDArray[np.float64], flag_on: str) -> float:
    """Return the largest verdict; -inf for a prompt without an answer that may not flag."""
    counted = verdicts if flag_on == "both" else verdicts[1:]
    return float(counted.max()) if len(counted) else -np.inf


def _cost(scores: StagedScores, asked: NDArray[np.bool_]) -> JudgeCost:
    table = scores.table
    verdicts = sum(np.size(scores.traces[row].classifier) for row in np.flatnonzero(asked).tolist())
    return JudgeCost(
        verdicts=verdicts,
        seconds=float(table.floats("cpu_s_stage2")[asked].sum()),
        prompt_tokens=int(table.floats("tokens_stage2")[asked].sum()),
    )
