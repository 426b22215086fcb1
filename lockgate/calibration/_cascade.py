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
from numpy.typing import NDArray

from lockgate.calibration._escalation import (
    TOLERANCE_SHARE,
    LengthRow,
    Trace,
    choose_drift,
    choose_escalation,
    escalated_by_length,
    find_largest,
    read_screen,
    read_trace,
)
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
        escalated_by_length: `escalated` in tenths of the calibration exchanges by length of answer. Empty if
            the escalation threshold was given, since the lengths of screened-out exchanges are unknown.
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
    escalated_by_length: tuple[LengthRow, ...] = ()


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
    drift: float | None = 0.0,
    training: PromptPrints | None = None,
    **description: Any,  # noqa: ANN401 - passed on to `choose_threshold` as it is
) -> CascadeCalibration:
    """Calibrate two stages from traces with a verdict for every block, or for those above `escalate`.

    - The drift is given, or `choose_drift` finds it on the benign exchanges. Everything below uses the
      corrected readings of such a `Cascade`.
    - The escalation threshold is `escalation_threshold` of the benign exchanges' largest readings: at most a
      share `escalation` of them escalates.
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
            logits of its prompt and its answer are enough, since a drift only lowers them. Scales come from
            the judged blocks.
        drift: see `Cascade`. None chooses it (`choose_drift`), from traces with all blocks.
        training: prompts that the stages were trained on, which are refused among `groups`. Only equal
            prompts are found, since there is no text here. `refuse_training_prompts` also takes
            near-duplicates.
        description: `ids`, `exclusions`, `lengths`, `sources`, `languages`, `confidence` of
            `choose_threshold`.

    Raises:
        CalibrationError: the sample is too small for its budget; a calibration prompt is also in development
            or training; there are several weights and nothing to choose by (also if no more of
            `development_benign` is escalated than `selection_fpr` allows to flag); a reading failed; more
            than a share `escalation` of `benign` lies above `escalate`; or `escalate` is given and `drift` is
            None.
        ConfigError: a trace lacks a verdict, or `drift` is negative or not finite.
    """
    if not 0 < escalation < 1:
        raise CalibrationError(f"escalation is {escalation}; expected a share strictly between 0 and 1")
    ruler = _ruler(benign, escalation, flag_on, escalate, drift, stride, calm_blocks)
    if shared := set(groups) & set(development_groups):
        raise CalibrationError(
            f"{len(shared)} prompts are in both development and calibration; the weight would be chosen on "
            "the rows that set the threshold. Split them by prompt"
        )
    if training is not None:
        matches = [PromptMatch("equal", 1.0) if known else None for known in training.holds(groups)]
        left_out = {Exclusion(*row).id for row in description.get("exclusions", ())}
        refuse_training_prompts(matches, description.get("ids") or groups, excluded=left_out)
    draft = _screened(benign, escalation, flag_on, ruler, given=escalate is not None)
    sets = (benign, development_benign, development_harmful)
    calibration, quiet, loud = (_Judged(traces, draft, flag_on) for traces in sets)
    rows = _weigh(weights, quiet, loud, selection_fpr)
    best = max(rows, key=lambda row: (row.tpr, -abs(row.weight - 0.5))).weight
    found = _threshold(calibration.mixed(best), groups, budget, description)
    escalated, mixed = np.isfinite(calibration.mixed(best)), loud.mixed(best)
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
        escalated=float(escalated.mean()),
        lost=lost,
        caught=_share(mixed > found.cut),
        caught_unscreened=caught_unscreened,
        selection_fpr=selection_fpr,
        weights=tuple(rows),
        flag_on=flag_on,
        escalated_by_length=() if escalate is not None else escalated_by_length(benign, escalated, stride),
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
    result is the cascade for `escalation` itself. A drift of None is chosen once, for `escalation`.

    Args:
        benign, groups: as in `calibrate_cascade`.
        escalation: largest share of benign exchanges that may be escalated.
        lost: largest `CascadeCalibration.lost` to accept.
        settings: other arguments of `calibrate_cascade`; development exchanges must be among them.

    Raises:
        CalibrationError: `calibrate_cascade` fails for `escalation` itself.
    """
    if settings.get("drift", 0.0) is None and settings.get("escalate") is None:
        settings["drift"] = choose_drift(
            benign, escalation=escalation, flag_on=settings["flag_on"], stride=settings.get("stride", 8)
        )
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


def _ruler(
    benign: Sequence[Trace],
    escalation: float,
    flag_on: FlagOn,
    escalate: float | None,
    drift: float | None,
    stride: int,
    calm_blocks: int,
) -> Cascade:
    """Create a cascade that corrects readings. Its escalation threshold is infinite if none was given."""
    if drift is None:
        if escalate is not None:
            raise CalibrationError(
                "drift: it can't be chosen for a given escalation threshold, because traces need not hold "
                "all blocks then; give a number, or leave the escalation threshold out"
            )
        drift = choose_drift(benign, escalation=escalation, flag_on=flag_on, stride=stride)
    cut = math.inf if escalate is None else escalate
    return Cascade(cut, math.inf, 0.5, stride=stride, calm_blocks=calm_blocks, drift=drift)


def _screened(
    benign: Sequence[Trace], escalation: float, flag_on: FlagOn, ruler: Cascade, *, given: bool
) -> Cascade:
    """Create a cascade with its escalation threshold and scales. Weight and final threshold come later.

    Args:
        given: whether `ruler` has the escalation threshold already.
    """
    # If only the maxima of prompt and answer are there, the answer's is corrected as in block 1. No token of
    # the answer is corrected by less, so this is an upper limit.
    screen = read_screen(benign, ruler, flag_on)
    if not given:
        cut = choose_escalation(screen, escalation)
        return replace(ruler, escalate=cut, **_scales(benign, ruler, 0 if flag_on == "both" else 1))
    if (above := _share(screen > ruler.escalate)) > escalation:
        raise CalibrationError(
            f"{above:.2%} of the benign exchanges lie above the escalation threshold "
            f"{ruler.escalate:g}, more than the {escalation:.2%} asked for; choose it higher"
        )
    judged = []
    for trace in benign:
        probe, classifier = read_trace(trace)
        if blocks := list(simulate(probe, classifier, ruler, flag_on=flag_on).judged_blocks):
            judged.append((ruler.corrected_blocks(probe)[blocks], classifier[blocks]))
    return replace(ruler, **_scales_of(judged))


class _Judged:
    """Standardised readings of the judged blocks of many exchanges. No weight changes which these are."""

    def __init__(self, traces: Sequence[Trace], cascade: Cascade, flag_on: FlagOn) -> None:
        probe, classifier, counts = [np.empty(0)], [np.empty(0)], []
        for trace in traces:
            first, second = read_trace(trace)
            judged = list(simulate(first, second, cascade, flag_on=flag_on).judged_blocks)
            readings = cascade.corrected_blocks(first)[judged]
            probe.append((readings - cascade.probe_mean) / cascade.probe_std)
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
    tolerance = TOLERANCE_SHARE * float(judged.std()) if len(judged) else 0.0
    # Traces are rounded, and a served stream runs in other batches. A score at the cut must still not flag.
    return choose_threshold(mixed + tolerance / 2, groups, budget, tolerance, unjudged=True, **description)


def _scales(benign: Sequence[Trace], ruler: Cascade, first: int) -> dict[str, Any]:
    """Compute the scales of both stages from block `first` on."""
    columns = (read_trace(trace) for trace in benign)
    return _scales_of(
        [(ruler.corrected_blocks(probe)[first:], verdicts[first:]) for probe, verdicts in columns]
    )


def _scales_of(readings: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> dict[str, Any]:
    """Compute the mean and standard deviation of each stage's largest reading over exchanges."""
    scales: dict[str, Any] = {}
    for column, name in enumerate(("probe", "classifier")):
        largest = np.array([find_largest(own[column]) for own in readings])
        largest = largest[np.isfinite(largest)]
        if len(largest) < 2 or not largest.std() > 0:
            raise CalibrationError(f"benign traces: {name} logits of at least two exchanges must differ")
        scales[f"{name}_mean"], scales[f"{name}_std"] = float(largest.mean()), float(largest.std())
    return scales


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan
