"""The guard's threshold: from the user's traffic with a claim, or provisional without a claim."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lockgate.assembly._measure import without_refusals
from lockgate.assembly._rows import HARMFUL, BuildRows
from lockgate.calibration import (
    Calibration,
    Exclusion,
    clopper_pearson_upper,
    plain_quantile_threshold,
    required_n,
    stored_threshold,
)
from lockgate.cascade import Thresholds
from lockgate.errors import TrainingError
from lockgate.guards import Guard, ProvisionalRecord
from lockgate.tables import ScoresTable
from lockgate.traffic import CalibrationPlan, describe_traffic, gather_evidence

# Logits move a little with the other rows of a batch and with library builds; a share of the scores' spread.
_TOLERANCE_SHARE = 1e-3
HELD_OUT_BENIGN = "held-out synthetic harmless exchanges, refusals not counted"


def set_threshold(
    guard: Guard,
    rows: BuildRows,
    tables: dict[str, ScoresTable],
    *,
    provisional_fpr: float,
) -> Guard:
    """Return the guard with a threshold and the record of how it was set.

    Args:
        guard: the guard without a threshold.
        rows: the rows of the build.
        tables: scores of the `calibration` or `provisional` rows, and of held-out rows for the tolerance.
        provisional_fpr: share of harmless rows above a provisional threshold.

    Raises:
        CalibrationError, TrainingError: Some scores are not finite.
    """
    spread = [table.floats("mixed_max") for name, table in sorted(tables.items()) if len(table)]
    tolerance = _TOLERANCE_SHARE * float(np.concatenate(spread).std())
    if not np.isfinite(tolerance):
        raise TrainingError(
            "the probe gives scores that are not finite; train with other layers or fewer epochs"
        )
    if rows.budget is not None:
        plan = CalibrationPlan(budget=rows.budget, tolerance=tolerance, exclusions=exclusions_of(rows))
        with gather_evidence(guard, tables["calibration"], plan) as evidence:
            calibration = evidence.choose()
        return guard.with_calibration(calibration, claim=describe_traffic_of(calibration, guard, rows))
    table = without_refusals(tables["provisional"])
    scores = table.floats("mixed_max")[~(table.labels >= 0.5)]
    cut = plain_quantile_threshold(scores, provisional_fpr)
    found = ProvisionalRecord(
        source=HELD_OUT_BENIGN, n=len(scores), quantile=provisional_fpr, reason=str(rows.reason)
    )
    return guard.with_provisional(Thresholds(stored_threshold(cut, tolerance), tolerance), found)


def exclusions_of(rows: BuildRows) -> tuple[Exclusion, ...]:
    """Return the calibration rows that reviewers found harmful, as what calibration leaves out."""
    return tuple(Exclusion(name, HARMFUL) for name in rows.excluded)


def with_flags(table: ScoresTable, guard: Guard) -> ScoresTable:
    """Return the scores with the guard's decisions, for scores read before its threshold was known.

    The place of the flagged token stays empty.
    """
    cut = cut_of(guard)
    answered = ~np.isnan(table.floats("max_answer"))
    return table.with_column("flagged", (table.floats("mixed_max") > cut) & answered)


def cut_of(guard: Guard) -> float:
    """Return the score above which the guard flags, of the probe alone or of both stages."""
    deciding = guard.record.decides
    return float(deciding.flag) - float(deciding.tolerance)


def describe_claim(guard: Guard, rows: BuildRows, wished: float) -> dict[str, Any]:
    """Describe the guard's claim for the report: a budget with its sample, or null with the reason."""
    wish = {"wished": wished, "wished_needs": required_n(wished)}
    found = guard.calibration
    if found is None:
        return {**wish, "budget": None, "false_refusal_rate": None, "reason": rows.reason, "excluded": None}
    flagged = {"flagged": found.flagged, "n": found.n, "bound": found.bound, "confidence": found.confidence}
    own = {"budget": found.budget, "false_refusal_rate": flagged, "k": found.k, "reviewed": None}
    own["excluded"] = None
    if found.threshold_without_exclusions is not None:
        before = found.threshold_without_exclusions
        own["excluded"] = {"exchanges": len(found.excluded), "threshold_with_them": before}
    if left_out := int(rows.counts["calibration_reviewed"]):
        own["reviewed"] = {"prompts": left_out, "bound_if_flagged": _worst_bound(found, left_out)}
    return {**wish, **own, "reason": None, "length_deciles": list(found.length_deciles)}


def _worst_bound(found: Calibration, left_out: int) -> float:
    """Return the bound over all traffic if each prompt that was left out were flagged."""
    return clopper_pearson_upper(found.flagged + left_out, found.n + left_out, found.confidence)


def describe_reviewed(left_out: int, bound: float) -> str:
    """Say what a claim loses because reviews took prompts out of its sample."""
    return (
        f"not a random sample: {left_out} distinct prompts of the traffic were left out since they, or near-"
        "duplicates, had been reviewed. Reviews pick what a guard got wrong, so that all of the traffic may "
        f"be flagged more often than claimed: were each of them flagged, the bound would be {bound:.3%}"
    )


def describe_excluded(count: int, threshold: float) -> str:
    """Say that reviewers found exchanges of the traffic harmful, and what they would do to the threshold."""
    return (
        f"left out: {count} exchanges among the highest of the traffic that a reviewer read and found to "
        f"break the policy; with them the threshold would be {threshold:.4f}"
    )


def describe_traffic_of(calibration: Calibration, guard: Guard, rows: BuildRows) -> Sequence[str]:
    """Describe the calibration traffic for the model card."""
    known = 0 if guard.training_prompts is None else len(guard.training_prompts)
    left_out = int(rows.counts["calibration_reviewed"])
    before = calibration.threshold_without_exclusions
    return [
        *([] if before is None else [describe_excluded(len(calibration.excluded), before)]),
        *([describe_reviewed(left_out, _worst_bound(calibration, left_out))] if left_out else []),
        *describe_traffic(
            calibration,
            f"none of {known} training prompts is in this traffic, nor a near-duplicate of one; those that "
            "were have been left out",
        ),
        *_describe_dropped(calibration, rows.counts["dropped"]),
    ]


def _describe_dropped(calibration: Calibration, counts: Mapping[str, int]) -> list[str]:
    """Describe the traffic left out of the sample because its prompts train or are held out."""
    trained = sum(n for reason, n in counts.items() if reason.startswith("benign/trained_prompt"))
    held_out = counts.get("benign/held_out_prompt", 0)
    lines = []
    if trained:
        lines.append(f"left out: {trained} exchanges of the traffic whose prompts are near a training prompt")
    if held_out:
        lines.append(
            f"left out: {held_out} exchanges of the traffic whose prompts are near a held-out synthetic one, "
            "and so near the policy; were each of them flagged, the bound would be "
            f"{_worst_bound(calibration, held_out):.3%}"
        )
    return lines
