"""Calibration of two stages, against a slow loop over simulated exchanges."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.calibration import (
    Calibration,
    Trace,
    allowed_flags,
    budget_table,
    calibrate_cascade,
    choose_threshold,
    plain_quantile_threshold,
)
from lockgate.cascade import Cascade, simulate
from lockgate.errors import CalibrationError, ConfigError


def make_traces(n: int, shift: float, seed: int) -> list[Trace]:
    """Exchanges of a few blocks; stage 2 sees harm better than stage 1."""
    rng = np.random.default_rng(seed)
    traces = []
    for _ in range(n):
        blocks = int(rng.integers(1, 7))
        probe = rng.normal(shift, 1.0, blocks)
        classifier = rng.normal(3 * shift - 4, 2.0, blocks)
        probe[0] = math.nan if rng.random() < 0.2 else probe[0]
        traces.append(Trace(probe.astype(np.float32), classifier.astype(np.float32)))
    return traces


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


@settings(max_examples=6)
@given(
    seed=st.integers(0, 99),
    escalation=st.sampled_from([0.05, 0.2, 0.5]),
    flag_on=st.sampled_from(["answer", "both"]),
)
def test_the_rule_by_a_slow_loop(seed, escalation, flag_on) -> None:
    benign, quiet, loud = (
        make_traces(400, 0, seed),
        make_traces(300, 0, seed + 1),
        make_traces(80, 1.5, seed + 2),
    )
    found = calibrate_cascade(
        benign, names("c", 400), budget=0.02, escalation=escalation, development_benign=quiet,
        development_harmful=loud, weights=(0.2, 0.5, 0.9), flag_on=flag_on, selection_fpr=0.005,
    )  # fmt: skip
    cascade = found.cascade

    def mixed(traces, **changes):
        return [simulate(*t, replace(cascade, **changes), flag_on=flag_on).mixed_max for t in traces]

    scores = np.array(mixed(benign))
    # No more escalate than allowed, and one exchange more would be too many.
    assert found.escalated == pytest.approx(np.isfinite(scores).mean())
    assert found.escalated <= escalation
    judged = [trace.probe for trace in benign if flag_on == "both" or len(trace.probe) > 1]
    highest = [max(np.nan_to_num(probe, nan=-np.inf).tolist()) for probe in judged]
    below = max(value for value in highest if value <= cascade.escalate)
    assert np.isfinite(mixed(benign, escalate=below - 1e-6)).mean() > escalation
    # As far from the one as from the other, so that noise moves neither.
    above = min(value for value in highest if value > cascade.escalate)
    assert cascade.escalate == pytest.approx((above + below) / 2, abs=1e-6)
    # Invariant 6 on the mixed score.
    k = allowed_flags(400, 0.02)
    flagged = sum(simulate(*trace, cascade, flag_on=flag_on).flagged for trace in benign)
    edge = np.sort(scores)[-k - 1]
    assert found.calibration.cut == pytest.approx(edge + cascade.tolerance / 2, rel=1e-9)
    assert (scores > edge).sum() == found.calibration.flagged <= k == found.calibration.k
    # One within half a tolerance of the edge does not flag in serving.
    assert flagged == (scores > found.calibration.cut).sum()
    # The weight is the best one on development exchanges.
    for row in found.weights:
        cut = np.sort(mixed(quiet, weight=row.weight))[-1 - math.floor(0.005 * 300)]
        assert row.tpr == pytest.approx(np.mean(np.array(mixed(loud, weight=row.weight)) > cut), abs=0.013)
    best = max(row.tpr for row in found.weights)
    assert cascade.weight in [row.weight for row in found.weights if row.tpr == best]
    # What the screen loses.
    whole = choose_threshold(mixed(benign, escalate=-math.inf), names("c", 400), 0.02, 0.0, unjudged=True).cut
    caught = np.array(mixed(loud, escalate=-math.inf)) > whole
    assert found.caught_unscreened == pytest.approx(caught.mean(), abs=0.013)
    final = np.array(mixed(loud))
    assert found.caught == pytest.approx((final > found.calibration.cut).mean(), abs=0.013)
    if caught.any():
        assert found.lost == pytest.approx((final[caught] == -math.inf).mean(), abs=0.05)
    assert Calibration.from_dict(found.calibration.to_dict()) == found.calibration


def test_scales_are_those_of_the_largest_benign_logits() -> None:
    benign = make_traces(400, 0, 5)
    found = calibrate_cascade(
        benign, names("c", 400), budget=0.02, escalation=0.1, flag_on="answer", weights=[0.5]
    )
    assert (found.cascade.weight, math.isnan(found.caught), math.isnan(found.lost)) == (0.5, True, True)
    largest = [max(trace.classifier[1:]) for trace in benign if len(trace.classifier) > 1]
    assert found.cascade.classifier_mean == pytest.approx(np.mean(largest), rel=1e-5)
    assert found.cascade.classifier_std == pytest.approx(np.std(largest), rel=1e-5)


def test_at_a_tie_the_weight_nearest_to_a_half_wins() -> None:
    benign, loud = make_traces(400, 0, 1), [Trace([0.0, 50.0], [0.0, 50.0])] * 5
    found = calibrate_cascade(
        benign, names("c", 400), budget=0.02, escalation=0.2, development_benign=make_traces(100, 0, 2),
        development_harmful=loud, weights=(0.0, 0.4, 0.7, 1.0), flag_on="answer",
    )  # fmt: skip
    assert found.cascade.weight == 0.4
    assert (found.lost, found.caught) == (0.0, 1.0)


def test_a_weight_needs_escalated_benign_exchanges_to_be_chosen_by() -> None:
    settings = {
        "budget": 0.02, "escalation": 0.1, "flag_on": "both", "selection_fpr": 0.5,
        "development_benign": make_traces(100, 0, 2), "development_harmful": make_traces(50, 1.5, 3),
    }  # fmt: skip
    benign = make_traces(400, 0, 1)
    with pytest.raises(CalibrationError, match=r"of 100 benign development exchanges \(\d+\.00%\) are escal"):
        calibrate_cascade(benign, names("c", 400), weights=(0.2, 0.5), **settings)
    found = calibrate_cascade(benign, names("c", 400), weights=(0.2,), **settings)
    assert found.cascade.weight == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"escalation": 0.0}, "strictly between 0 and 1"),
        ({"development_groups": ["c3"]}, "both in development|in both development"),
        ({"weights": (0.2, 0.5)}, "give both, or one weight"),
        ({"weights": (1.5,)}, "a share from 0 to 1"),
        ({"weights": ()}, "at least one"),
        ({"budget": 0.001}, "distinct benign prompts"),
        ({"escalation": 0.005, "budget": 0.05}, "the second stage decides nothing"),
        ({"benign": [Trace([1.0, 2.0], [1.0, 1.0])] * 400}, "must differ"),
        ({"benign": [Trace([math.nan], [1.0])] * 400}, "finite probe logits"),
        ({"benign": [*make_traces(399, 0, 3), Trace([0.0, 50.0], [1.0, math.inf])]}, "not finite"),
    ],
)
def test_what_can_carry_no_cascade_is_refused(changes, message) -> None:
    settings = {
        "benign": make_traces(400, 0, 3),
        "budget": 0.02,
        "escalation": 0.1,
        "flag_on": "answer",
        "weights": (0.5,),
    } | changes
    with pytest.raises(CalibrationError, match=message):
        calibrate_cascade(settings.pop("benign"), names("c", 400), **settings)


def test_traces_without_verdicts_are_refused() -> None:
    benign = make_traces(400, 0, 3)
    benign[7] = Trace([9.0, 9.0], [math.nan, math.nan])
    with pytest.raises(ConfigError, match="score again with verdicts for all blocks"):
        calibrate_cascade(
            benign, names("c", 400), budget=0.02, escalation=0.1, flag_on="answer", weights=(0.5,)
        )


def test_exchanges_that_were_never_escalated_count_and_cannot_flag() -> None:
    scores = [-math.inf] * 380 + [float(i) for i in range(20)]
    found = choose_threshold(scores, names("p", 400), 0.02, 0.0, unjudged=True)
    k = allowed_flags(400, 0.02)
    assert (found.n, found.k, found.cut, found.flagged) == (400, k, 19.0 - k, k)
    assert "0.5" not in found.quantiles
    assert found.quantiles["1"] == 19.0
    assert plain_quantile_threshold(scores, 0.5, unjudged=True) == -math.inf
    assert budget_table(scores, [0.5], unjudged=True)[0].cut == -math.inf
    for call in (
        lambda: choose_threshold(scores, names("p", 400), 0.02, 0.0),
        lambda: budget_table(scores),
        lambda: plain_quantile_threshold(scores, 0.5),
        lambda: choose_threshold([*scores[:-1], math.nan], names("p", 400), 0.02, 0.0, unjudged=True),
    ):
        with pytest.raises(CalibrationError, match="not finite"):
            call()


def test_a_calibrated_cascade_is_ready_to_serve() -> None:
    found = calibrate_cascade(
        make_traces(400, 0, 4), names("c", 400), budget=0.02, escalation=0.1, flag_on="both", weights=(0.5,)
    )
    assert isinstance(found.cascade, Cascade)
    assert found.flag_on == "both"
    assert found.cascade.flag == found.calibration.threshold
    assert found.cascade.tolerance == found.calibration.tolerance > 0


@settings(max_examples=10)
@given(
    seed=st.integers(0, 99),
    escalate=st.sampled_from([0.75, 1.25, 2.0]),
    flag_on=st.sampled_from(["answer", "both"]),
    weights=st.sampled_from([(0.3,), (0.0, 0.4, 1.0)]),
    drift=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_with_a_given_escalation_threshold_verdicts_below_it_are_not_needed(
    seed, escalate, flag_on, weights, drift
) -> None:
    """Exchanges that can't be escalated need no verdict and no blocks, only their maxima.

    A drift lowers readings, so what a screen without one leaves out stays out.
    """
    draft = Cascade(escalate, math.inf, 0.5)

    def sparse(trace: Trace) -> Trace:
        judged = simulate(*trace, draft, flag_on=flag_on).judged_blocks
        if judged:
            asked = np.isin(np.arange(len(trace.probe)), judged)
            return Trace(trace.probe, np.where(asked, trace.classifier, math.nan))
        answer = np.concatenate([[np.nan], trace.probe[1:]])
        maxima = [trace.probe[0], *([np.nanmax(answer)] if len(trace.probe) > 1 else [])]
        return Trace(maxima, [math.nan] * len(maxima))

    sets = [make_traces(400, 0, seed), make_traces(300, 0, seed + 1), make_traces(80, 1.5, seed + 2)]
    whole, needed = (
        calibrate_cascade(
            benign, names("c", 400), budget=0.02, escalation=0.9, flag_on=flag_on, escalate=escalate,
            drift=drift, development_benign=quiet, development_harmful=loud, weights=weights,
            selection_fpr=0.005,
        )
        for benign, quiet, loud in (sets, [[sparse(trace) for trace in own] for own in sets])
    )  # fmt: skip
    assert math.isnan(whole.lost)
    assert math.isnan(needed.caught_unscreened)
    assert replace(needed, lost=0, caught_unscreened=0) == replace(whole, lost=0, caught_unscreened=0)
    assert needed.cascade.escalate == escalate


def test_a_given_escalation_threshold_keeps_to_the_escalation_budget() -> None:
    with pytest.raises(CalibrationError, match=r"lie above the escalation threshold 1, more than the 1\.00%"):
        calibrate_cascade(
            make_traces(400, 0, 3), names("c", 400), budget=0.02, escalation=0.01, flag_on="answer",
            weights=(0.5,), escalate=1.0,
        )  # fmt: skip
