"""Calibration of two stages from block traces: when to escalate, how to mix, where to flag (CC++ section 5).

Benign calibration exchanges set the escalation threshold, the scales of the logits and the final threshold.
Development exchanges, benign and harmful, choose the mixing weight and show what the escalation threshold
loses. Test exchanges are not used here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lockgate.calibration._threshold import (
    Calibration,
    Exclusion,
    choose_threshold,
    plain_quantile_threshold,
    refuse_training_prompts,
)
from lockgate.cascade import Cascade, FlagOn, simulate
from lockgate.errors import CalibrationError
from lockgate.exchanges import PromptMatch, PromptPrints

ESCALATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
# Other streams in a batch and other library builds move a score by less than this share of its spread.
_TOLERANCE_SHARE = 1e-3


class Trace(NamedTuple):
    """The blocks 0, 1, ... of one exchange.

    Attributes:
        probe: largest smoothed probe logit of each block; NaN where no token counts.
        classifier: verdict on each block; NaN where there is none.
    """

    probe: ArrayLike
    classifier: ArrayLike


class WeightRow(NamedTuple):
    """A mixing weight (the probe's share) and the TPR it reaches on development exchanges."""

    weight: float
    tpr: float


@dataclass(frozen=True, slots=True)
class CascadeCalibration:
    """A calibrated cascade and the evidence for it.

    `lost` and `caught_unscreened` are NaN if the escalation threshold was given, since verdicts below it are
    unknown.

    Attributes:
        cascade: ready to serve, with its final threshold.
        calibration: the evidence for the final threshold.
        escalation_budget: largest share of benign exchanges that may be escalated.
        escalated: share of benign calibration exchanges that stage 2 is asked about.
        lost: what the escalation threshold loses. Take the harmful development exchanges that the same
            mixture would flag if it judged every block, at its own threshold for the same budget. `lost` is
            the share of them that is never escalated; NaN if there are none.
        caught: share of harmful development exchanges flagged; NaN without such exchanges.
        caught_unscreened: the same share if the mixture judged every block.
        selection_fpr: share of benign development exchanges flagged where weights are compared.
        weights: what each weight catches at `selection_fpr`.
        flag_on: whether the prompt's block was judged too. A guard must use the same value.
    """

    cascade: Cascade
    calibration: Calibration
    escalation_budget: float
    escalated: float
    lost: float
    caught: float
    caught_unscreened: float
    selection_fpr: float
    weights: tuple[WeightRow, ...]
    flag_on: FlagOn


def calibrate_cascade(
    benign: Sequence[Trace],
    groups: Sequence[str],
    *,
    budget: float,
    escalation: float,
    flag_on: FlagOn,
    development_benign: Sequence[Trace] = (),
    development_harmful: Sequence[Trace] = (),
    development_groups: Sequence[str] = (),
    weights: Sequence[float] = WEIGHTS,
    selection_fpr: float = 0.01,
    stride: int = 8,
    calm_blocks: int = 2,
    escalate: float | None = None,
    training: PromptPrints | None = None,
    **description: Any,  # noqa: ANN401 - passed on to `choose_threshold` as it is
) -> CascadeCalibration:
    """Calibrate two stages from traces with a verdict for every block, or for those above `escalate`.

    - The escalation threshold is `escalation_threshold` of the benign exchanges' largest probe logits: at
      most a share `escalation` of them escalates.
    - The weight catches most of `development_harmful` at the threshold that a share `selection_fpr` of
      `development_benign` exceeds. In a tie, the weight nearest to one half wins.
    - The final threshold follows from mixed scores by the rule of `choose_threshold`. Exchanges that are
      never escalated count as minus infinity. The cut lies half a tolerance higher, so that float noise
      flags no further exchange.

    Args:
        benign: traces of the benign calibration exchanges [N].
        groups: the prompt of each calibration exchange [N].
        budget: refusal budget to claim.
        escalation: largest share of benign exchanges that may be escalated.
        flag_on: must equal that of the guard that will serve; see `Thresholds`.
        development_benign, development_harmful: traces of the development exchanges.
        development_groups: prompts of the development exchanges. None may be among `groups`.
        weights: mixing weights to choose from.
        selection_fpr: share of `development_benign` flagged where weights are compared.
        stride, calm_blocks: see `Cascade`.
        escalate: escalation threshold, if it was chosen before. Then traces need verdicts only where a
            cascade with this threshold asks for them. For an exchange that can't be escalated, the largest
            logits of its prompt and its answer are enough. Scales come from the judged blocks.
        training: prompts that the stages were trained on, which are refused among `groups`. Only equal
            prompts are found, since there is no text here. `refuse_training_prompts` also takes
            near-duplicates.
        description: `ids`, `exclusions`, `lengths`, `sources`, `languages`, `confidence` of
            `choose_threshold`.

    Raises:
        CalibrationError: the sample is too small for its budget; a calibration prompt is also in development
            or training; there are several weights and nothing to choose by (also if no more of
            `development_benign` is escalated than `selection_fpr` allows to flag); a reading failed; or more
            than a share `escalation` of `benign` lies above `escalate`.
        ConfigError: a trace lacks a verdict.
    """
    if not 0 < escalation < 1:
        raise CalibrationError(f"escalation is {escalation}; expected a share strictly between 0 and 1")
    if shared := set(groups) & set(development_groups):
        raise CalibrationError(
            f"{len(shared)} prompts are in both development and calibration; the weight would be chosen on "
            "the rows that set the threshold. Split them by prompt"
        )
    if training is not None:
        matches = [PromptMatch("equal", 1.0) if known else None for known in training.holds(groups)]
        left_out = {Exclusion(*row).id for row in description.get("exclusions", ())}
        refuse_training_prompts(matches, description.get("ids") or groups, excluded=left_out)
    draft = _screened(benign, escalation, flag_on, escalate, stride, calm_blocks)
    sets = (benign, development_benign, development_harmful)
    calibration, quiet, loud = (_Judged(traces, draft, flag_on) for traces in sets)
    rows = _weigh(weights, quiet, loud, selection_fpr)
    best = max(rows, key=lambda row: (row.tpr, -abs(row.weight - 0.5))).weight
    found = _threshold(calibration.mixed(best), groups, budget, description)
    mixed = loud.mixed(best)
    lost = caught_unscreened = math.nan
    if escalate is None:
        open_cascade = replace(draft, escalate=-math.inf)
        unscreened = _Judged(benign, open_cascade, flag_on).mixed(best)
        whole = _Judged(development_harmful, open_cascade, flag_on).mixed(best)
        without_screen = whole > _threshold(unscreened, groups, budget, description).cut
        lost, caught_unscreened = _share(mixed[without_screen] == -np.inf), _share(without_screen)
    return CascadeCalibration(
        cascade=replace(draft, weight=best, flag=found.threshold, tolerance=found.tolerance),
        calibration=found,
        escalation_budget=escalation,
        escalated=float(np.isfinite(calibration.mixed(best)).mean()),
        lost=lost,
        caught=_share(mixed > found.cut),
        caught_unscreened=caught_unscreened,
        selection_fpr=selection_fpr,
        weights=tuple(rows),
        flag_on=flag_on,
    )


def calibrate_sparingly(
    benign: Sequence[Trace],
    groups: Sequence[str],
    *,
    escalation: float,
    lost: float,
    **settings: Any,  # noqa: ANN401 - passed on to `calibrate_cascade` as it is
) -> CascadeCalibration:
    """Calibrate the cascade that escalates least and still loses at most a share `lost`.

    The shares in `ESCALATIONS` below `escalation` are tried in rising order. If all of them lose more, the
    result is the cascade for `escalation` itself.

    Args:
        benign, groups: as in `calibrate_cascade`.
        escalation: largest share of benign exchanges that may be escalated.
        lost: largest `CascadeCalibration.lost` to accept.
        settings: other arguments of `calibrate_cascade`; development exchanges must be among them.

    Raises:
        CalibrationError: `calibrate_cascade` fails for `escalation` itself.
    """
    for share in ESCALATIONS:
        if share >= escalation:
            break
        try:
            found = calibrate_cascade(benign, groups, escalation=share, **settings)
        except CalibrationError:
            continue  # too little is escalated to choose a weight or a threshold
        if found.lost <= lost:
            return found
    return calibrate_cascade(benign, groups, escalation=escalation, **settings)


def _screened(
    benign: Sequence[Trace],
    escalation: float,
    flag_on: FlagOn,
    escalate: float | None,
    stride: int,
    calm_blocks: int,
) -> Cascade:
    """Create a cascade with its escalation threshold and scales. Weight and final threshold come later."""
    first = 0 if flag_on == "both" else 1
    screen = np.array(
        [_largest(trace.probe, 0 if len(np.asarray(trace.probe)) > first else None) for trace in benign]
    )
    if escalate is None:
        cut, scales = _escalate(screen, escalation), _scales(benign, first)
        return Cascade(cut, math.inf, 0.5, **scales, stride=stride, calm_blocks=calm_blocks)
    if _share(screen > escalate) > escalation:
        raise CalibrationError(
            f"{_share(screen > escalate):.2%} of the benign exchanges lie above the escalation threshold "
            f"{escalate:g}, more than the {escalation:.2%} asked for; choose it higher"
        )
    draft = Cascade(escalate, math.inf, 0.5, stride=stride, calm_blocks=calm_blocks)
    judged = []
    for trace in benign:
        probe, classifier = _arrays(trace)
        if blocks := list(simulate(probe, classifier, draft, flag_on=flag_on).judged_blocks):
            judged.append(Trace(probe[blocks], classifier[blocks]))
    scales = _scales(judged, 0)
    return Cascade(escalate, math.inf, 0.5, **scales, stride=stride, calm_blocks=calm_blocks)


class _Judged:
    """Standardised readings of the judged blocks of many exchanges. No weight changes which these are."""

    def __init__(self, traces: Sequence[Trace], cascade: Cascade, flag_on: FlagOn) -> None:
        probe, classifier, counts = [np.empty(0)], [np.empty(0)], []
        for trace in traces:
            first, second = _arrays(trace)
            judged = list(simulate(first, second, cascade, flag_on=flag_on).judged_blocks)
            probe.append((first[judged] - cascade.probe_mean) / cascade.probe_std)
            classifier.append((second[judged] - cascade.classifier_mean) / cascade.classifier_std)
            counts.append(len(judged))
        self._probe, self._classifier = np.concatenate(probe), np.concatenate(classifier)
        self._counts = np.array(counts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._counts)

    def mixed(self, weight: float) -> NDArray[np.float64]:
        """Return each exchange's largest mixed score [N], minus infinity where no block was judged."""
        result = np.full(len(self), -np.inf)
        held = self._counts > 0
        if held.any():
            with np.errstate(invalid="ignore"):
                values = weight * self._probe + (1.0 - weight) * self._classifier
            values[~np.isfinite(values)] = np.inf  # a reading that failed
            starts = np.concatenate([[0], np.cumsum(self._counts[held])[:-1]])
            result[held] = np.maximum.reduceat(values, starts)
        return result


def _weigh(
    weights: Sequence[float], benign: _Judged, harmful: _Judged, selection_fpr: float
) -> list[WeightRow]:
    if not weights or not all(0 <= weight <= 1 for weight in weights):
        raise CalibrationError("weights: expected at least one, each a share from 0 to 1")
    if not (len(benign) and len(harmful)):
        if len(weights) > 1:
            raise CalibrationError(
                "the weight is chosen on development exchanges, benign and harmful; give both, or one weight"
            )
        return [WeightRow(weights[0], math.nan)]
    rows = []
    for weight in weights:
        mixed = benign.mixed(weight)
        cut = plain_quantile_threshold(mixed, selection_fpr, unjudged=True)
        # Every weight would flag all escalated exchanges, so all weights tie.
        if cut == -math.inf and len(weights) > 1:
            raise CalibrationError(
                f"{int((mixed > cut).sum())} of {len(mixed)} benign development exchanges "
                f"({_share(mixed > cut):.2%}) are escalated, no more than selection_fpr = {selection_fpr:g} "
                "allows to flag, so no weight can be chosen. Escalate more, give more development exchanges, "
                "or fix the weight"
            )
        rows.append(WeightRow(float(weight), _share(harmful.mixed(weight) > cut)))
    return rows


def _threshold(
    mixed: NDArray[np.float64], groups: Sequence[str], budget: float, description: dict[str, Any]
) -> Calibration:
    judged = mixed[np.isfinite(mixed)]
    tolerance = _TOLERANCE_SHARE * float(judged.std()) if len(judged) else 0.0
    # Traces are rounded, and a served stream runs in other batches. A score at the cut must still not flag.
    return choose_threshold(mixed + tolerance / 2, groups, budget, tolerance, unjudged=True, **description)


def escalation_threshold(highest: NDArray[np.float64], share: float) -> float:
    """Return a logit with at most a share `share` of the exchanges above it.

    It lies half-way between the last exchange that is not escalated and the next one above, in single
    precision like traces. So neither rounding nor other exchanges in a batch move an exchange across it.

    Args:
        highest: largest logit of each exchange [N].
        share: largest share of exchanges above the result.
    """
    cut = plain_quantile_threshold(highest, share, unjudged=True)
    finite = highest[np.isfinite(highest)]
    if cut == -math.inf and len(finite):
        # So many exchanges have nothing to judge that all others may be escalated.
        return math.nextafter(float(finite.min() - _TOLERANCE_SHARE * finite.std()), -math.inf)
    above = highest[highest > cut]
    if not len(above):
        return cut
    middle = float(np.float32((cut + above.min()) / 2))
    return middle if cut <= middle < above.min() else cut


def _escalate(screen: NDArray[np.float64], share: float) -> float:
    if not np.isfinite(screen).any() or (screen == np.inf).any():
        raise CalibrationError("benign traces: expected finite probe logits; score those rows again")
    return escalation_threshold(screen, share)


def _scales(benign: Sequence[Trace], first: int) -> dict[str, float]:
    """Compute the mean and standard deviation of each stage's largest logit over exchanges."""
    scales = {}
    for name in ("probe", "classifier"):
        largest = np.array([_largest(getattr(trace, name), first) for trace in benign])
        largest = largest[np.isfinite(largest)]
        if len(largest) < 2 or not largest.std() > 0:
            raise CalibrationError(f"benign traces: {name} logits of at least two exchanges must differ")
        scales[f"{name}_mean"], scales[f"{name}_std"] = float(largest.mean()), float(largest.std())
    return scales


def _largest(values: ArrayLike, first: int | None) -> float:
    """Return the largest reading from block `first` on, or minus infinity if there is none."""
    if first is None:
        return -math.inf
    readings = np.asarray(values, dtype=np.float64)[first:]
    return float(readings[~np.isnan(readings)].max(initial=-math.inf))


def _arrays(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(trace.probe, dtype=np.float64), np.asarray(trace.classifier, dtype=np.float64)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan
