"""Calibration of two stages from block traces: when to escalate, how to mix, where to flag (CC++ section 5).

Three kinds of exchanges, and each does one thing. Benign calibration exchanges set the escalation threshold,
the scales of the logits and the final threshold. Development exchanges, benign and harmful, choose the mixing
weight and say what escalating so little loses. Test exchanges are not seen here at all.
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
# Batch mates and builds of the libraries move a score by less than this share of its spread.
_TOLERANCE_SHARE = 1e-3


class Trace(NamedTuple):
    """Blocks 0, 1, ... of one exchange: the probe's largest logits, the verdicts; NaN where there is none."""

    probe: ArrayLike
    classifier: ArrayLike


class WeightRow(NamedTuple):
    """What a mixing weight (the probe's share) catches of the harmful development exchanges."""

    weight: float
    tpr: float


@dataclass(frozen=True, slots=True)
class CascadeCalibration:
    """Two stages, calibrated, and what that stands on.

    Attributes:
        cascade: ready to serve, its final threshold set.
        calibration: the evidence behind that threshold.
        escalated: realised share of benign calibration exchanges that stage 2 is asked about.
        lost: of the harmful development exchanges that the same mixture would flag if it judged every block,
            at its own threshold for the same budget, the share that is never escalated. NaN if it flags none.
        caught, caught_unscreened: share of harmful development exchanges flagged, with and without stage 1's
            screen. NaN without such exchanges; `lost` and `caught_unscreened` are NaN too where the
            escalation threshold was given, since nothing is known of what lies below it.
        weights: what each weight caught on development exchanges at `selection_fpr`.
        flag_on: whether the prompt's block was judged too; all of it holds for guards that do the same.
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

    The escalation threshold is `escalation_threshold` of benign exchanges' largest probe logits: at most a
    share `escalation` of them escalates. The weight is the one that catches most of `development_harmful` at
    the threshold that `selection_fpr` of `development_benign` exceed; at a tie the one nearest to a half. The
    final threshold follows from mixed scores by design.md's invariant 6, exchanges never escalated counting
    as minus infinity, and lies half a tolerance higher, so that float noise flags no exchange more.

    Args:
        groups, development_groups: which rows share a prompt; the development set must share none with the
            calibration set.
        flag_on: that of the guard which will serve, see `Thresholds`.
        escalate: the escalation threshold, chosen before. Traces then need verdicts only where a cascade with
            it asks for them; an exchange that can't be escalated may be traced by the maxima of its prompt
            and its answer. Logits are then scaled by what is judged.
        training: the prompts that the stages were trained on, to refuse them among `groups`. Near-duplicates
            are for `refuse_training_prompts`, since no text is known here.
        description: `ids`, `exclusions`, `lengths`, `sources`, `languages`, `confidence` of
            `choose_threshold`.

    Raises:
        CalibrationError: a sample too small for its budget, prompts of development or training among the
            calibration ones,
            several weights and nothing to choose by (also where no more of `development_benign` is escalated
            than `selection_fpr` allows to flag), readings that failed, or more of `benign` above `escalate`
            than `escalation`.
        ConfigError: a trace that lacks verdicts.
    """
    if not 0 < escalation < 1:
        raise CalibrationError(f"escalation is {escalation}; expected a share strictly between 0 and 1")
    if shared := set(groups) & set(development_groups):
        raise CalibrationError(
            f"{len(shared)} prompts are in both development and calibration; the weight would be chosen on "
            "the rows that carry the budget. Split them by prompt"
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
    """The cascade that escalates least of those that lose at most a share `lost` of what it would flag.

    Shares of `ESCALATIONS` below `escalation` are tried in order; if none loses so little, it is that one.

    Args:
        settings: those of `calibrate_cascade`; development exchanges must be among them.

    Raises:
        CalibrationError: as `calibrate_cascade` does for `escalation` itself.
    """
    for share in ESCALATIONS:
        if share >= escalation:
            break
        try:
            found = calibrate_cascade(benign, groups, escalation=share, **settings)
        except CalibrationError:
            continue  # so little is escalated that nothing can be chosen
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
    """Two stages with their escalation threshold and scales; weight and final threshold are still open."""
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
    """Standardised readings of the judged blocks of many exchanges: which they are depends on no weight."""

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
        """Largest mixed score of each exchange `[N]`; minus infinity where no block was judged."""
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
        # Every weight would catch whatever is escalated: a tie that says nothing.
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
    # Traces are rounded, and a served stream has other company: what lies at the cut must not flag then.
    return choose_threshold(mixed + tolerance / 2, groups, budget, tolerance, unjudged=True, **description)


def escalation_threshold(highest: NDArray[np.float64], share: float) -> float:
    """The logit above which at most a share of exchanges has its largest one `highest` [N].

    It lies half-way between the exchange at the edge and the next one above, in single precision as traces
    are, so that neither rounding nor the company that an exchange is scored in moves one over it.
    """
    cut = plain_quantile_threshold(highest, share, unjudged=True)
    finite = highest[np.isfinite(highest)]
    if cut == -math.inf and len(finite):
        # So many have nothing to judge that all others may be escalated.
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
    """Mean and spread of each stage's largest logit of an exchange."""
    scales = {}
    for name in ("probe", "classifier"):
        largest = np.array([_largest(getattr(trace, name), first) for trace in benign])
        largest = largest[np.isfinite(largest)]
        if len(largest) < 2 or not largest.std() > 0:
            raise CalibrationError(f"benign traces: {name} logits of at least two exchanges must differ")
        scales[f"{name}_mean"], scales[f"{name}_std"] = float(largest.mean()), float(largest.std())
    return scales


def _largest(values: ArrayLike, first: int | None) -> float:
    """Largest reading from block `first` on; minus infinity if there is none."""
    if first is None:
        return -math.inf
    readings = np.asarray(values, dtype=np.float64)[first:]
    return float(readings[~np.isnan(readings)].max(initial=-math.inf))


def _arrays(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(trace.probe, dtype=np.float64), np.asarray(trace.classifier, dtype=np.float64)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan
