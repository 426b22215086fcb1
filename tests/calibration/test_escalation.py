"""Drift and escalated shares by length, on made traces whose maxima grow with the answer, or do not."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.calibration import Trace, calibrate_cascade, calibrate_sparingly, choose_drift
from lockgate.calibration._escalation import escalated_by_length, split_by_length
from lockgate.cascade import Cascade, simulate
from lockgate.errors import CalibrationError, ConfigError

STRIDE = 8


def make_traces(n: int, seed: int, *, growing: bool, shift: float = 0.0) -> list[Trace]:
    """Exchanges of 2 to 128 blocks. If they grow, each block may be the largest, or else the first two."""
    rng = np.random.default_rng(seed)
    traces = []
    for _ in range(n):
        blocks = 1 + int(2 ** rng.uniform(0, 7))
        probe = rng.normal(shift, 1.0, blocks)
        if not growing:
            probe[2:] -= 50.0
        traces.append(Trace(probe.astype(np.float32), rng.normal(3 * shift - 4, 2.0, blocks)))
    return traces


def names(n: int) -> list[str]:
    return [f"c{i}" for i in range(n)]


def shares(traces, cascade, flag_on="answer"):
    """The escalated share of each third by length, by a slow loop."""
    order = sorted(traces, key=lambda trace: len(trace.probe))
    thirds = [order[i * len(order) // 3 : (i + 1) * len(order) // 3] for i in range(3)]
    asked = [[simulate(*trace, cascade, flag_on=flag_on).escalated for trace in third] for third in thirds]
    return [float(np.mean(third)) for third in asked]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_chosen_drift_evens_out_maxima_that_grow_with_length(seed) -> None:
    benign, fresh = (make_traces(3000, own, growing=True) for own in (seed, seed + 100))
    settings = {"budget": 0.01, "escalation": 0.1, "flag_on": "answer", "weights": (0.5,)}
    plain = calibrate_cascade(benign, names(3000), **settings)
    found = calibrate_cascade(benign, names(3000), drift=None, **settings)
    assert plain.cascade.drift == 0.0 < found.cascade.drift
    before, after = shares(benign, plain.cascade), shares(benign, found.cascade)
    assert before[2] > 5 * before[0]
    assert max(after) < 2 * min(after)
    # Also on exchanges that did not choose it.
    assert shares(fresh, plain.cascade)[2] > 5 * shares(fresh, plain.cascade)[0]
    assert max(shares(fresh, found.cascade)) < 2 * min(shares(fresh, found.cascade))
    assert found.escalated <= 0.1
    short, long = found.escalated_by_length[0], found.escalated_by_length[-1]
    assert long.share < 3 * short.share
    assert plain.escalated_by_length[-1].share > 5 * plain.escalated_by_length[0].share


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_maxima_do_not_grow_the_drift_stays_near_0(seed) -> None:
    rng = np.random.default_rng(seed)
    benign = []
    for _ in range(3000):
        blocks = 1 + int(2 ** rng.uniform(0, 7))
        # The level belongs to the exchange; its blocks differ little, and none stands out by its place.
        probe = rng.normal(0.0, 1.0) + np.linspace(0, -0.01, blocks)
        benign.append(Trace(probe, np.zeros(blocks)))
    spread = np.concatenate([trace.probe for trace in benign]).std()
    drift = choose_drift(benign, escalation=0.1, flag_on="answer", stride=STRIDE)
    assert drift <= 0.2 * spread


def test_exchanges_of_one_length_need_no_drift() -> None:
    rng = np.random.default_rng(0)
    benign = [Trace(rng.normal(size=5), np.zeros(5)) for _ in range(300)]
    assert choose_drift(benign, escalation=0.1, flag_on="both", stride=STRIDE) == 0.0


def test_the_choice_by_a_slow_loop() -> None:
    benign = make_traces(400, 7, growing=True)
    spread = np.concatenate([trace.probe.astype(float) for trace in benign]).std()
    lengths = np.array([len(trace.probe) for trace in benign])
    edges = [np.sort(lengths)[math.ceil(part * 400 / 3) - 1] for part in (1, 2)]
    third = (lengths > edges[0]).astype(int) + (lengths > edges[1])
    ratios = []
    for step in range(16):
        cascade = Cascade(0.0, math.inf, 0.5, drift=0.1 * step * spread)
        highest = [
            max(own - cascade.drift * math.log2(1 + 8 * i / 64) for i, own in enumerate(trace.probe.tolist()))
            for trace in benign
        ]
        asked = np.array(highest) > np.sort(highest)[-41]
        rates = [(asked[third == i].sum() + 0.5) / ((third == i).sum() + 1) for i in range(3)]
        ratios.append(max(rates) / min(rates))
    wanted = 0.1 * int(np.argmin(ratios)) * spread
    assert choose_drift(benign, escalation=0.1, flag_on="both", stride=8) == pytest.approx(wanted)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    seed=st.integers(0, 50),
    drift=st.floats(0, 2),
    flag_on=st.sampled_from(["answer", "both"]),
    stride=st.sampled_from([1, 8, 64]),
)
def test_a_drift_calibrates_as_corrected_traces_do_without_one(seed, drift, flag_on, stride) -> None:
    def corrected(traces):
        return [
            Trace(
                [p - drift * math.log2(1 + i * stride / 64) for i, p in enumerate(t.probe.tolist())],
                t.classifier,
            )
            for t in traces
        ]

    sets = [make_traces(400, seed + i, growing=True, shift=shift) for i, shift in enumerate((0, 0, 1.5))]
    given_drift, by_hand = (
        calibrate_cascade(
            benign, names(400), budget=0.02, escalation=0.3, flag_on=flag_on, stride=stride, drift=own,
            development_benign=quiet, development_harmful=loud, weights=(0.2, 0.8), selection_fpr=0.005,
        )
        for own, (benign, quiet, loud) in ((drift, sets), (0.0, [corrected(own) for own in sets]))
    )  # fmt: skip
    assert replace(given_drift.cascade, drift=0.0) == by_hand.cascade
    assert replace(given_drift, cascade=by_hand.cascade) == by_hand
    # The bound stays: no more flag than allowed, and the shares are what the state machine does.
    asked = [simulate(*t, given_drift.cascade, flag_on=flag_on).escalated for t in sets[0]]
    assert given_drift.escalated == np.mean(asked) <= 0.3
    flagged = sum(simulate(*t, given_drift.cascade, flag_on=flag_on).flagged for t in sets[0])
    assert flagged <= given_drift.calibration.flagged <= given_drift.calibration.k
    rows = given_drift.escalated_by_length
    assert sum(row.n for row in rows) == 400
    assert sum(row.n * row.share for row in rows) == pytest.approx(sum(asked))


def test_a_drift_of_0_is_the_default_and_changes_nothing() -> None:
    benign = make_traces(400, 3, growing=True)
    options = {"budget": 0.02, "escalation": 0.1, "flag_on": "both", "weights": (0.5,)}
    assert calibrate_cascade(benign, names(400), drift=0.0, **options) == calibrate_cascade(
        benign, names(400), **options
    )


def test_the_sparing_search_chooses_the_drift_once_for_the_whole_share() -> None:
    benign, quiet, loud = (
        make_traces(600, i, growing=True, shift=shift) for i, shift in enumerate((0, 0, 3.0))
    )
    found = calibrate_sparingly(
        benign, names(600), escalation=0.3, lost=0.5, drift=None, budget=0.02, flag_on="answer",
        development_benign=quiet, development_harmful=loud, selection_fpr=0.002,
    )  # fmt: skip
    wanted = choose_drift(benign, escalation=0.3, flag_on="answer", stride=8)
    assert found.escalation_budget < 0.3
    assert found.cascade.drift == wanted > 0


def test_a_drift_is_not_chosen_for_a_given_threshold_but_may_be_given() -> None:
    benign = make_traces(400, 3, growing=True)
    options = {"budget": 0.02, "escalation": 0.5, "flag_on": "answer", "weights": (0.5,), "escalate": 1.5}
    with pytest.raises(CalibrationError, match="drift: it can't be chosen for a given escalation threshold"):
        calibrate_cascade(benign, names(400), drift=None, **options)
    found = calibrate_cascade(benign, names(400), drift=0.5, **options)
    assert (found.cascade.drift, found.cascade.escalate, found.escalated_by_length) == (0.5, 1.5, ())


@pytest.mark.parametrize("drift", [-0.1, math.nan, math.inf])
def test_a_drift_that_makes_no_sense(drift) -> None:
    with pytest.raises(ConfigError, match="drift is"):
        calibrate_cascade(
            make_traces(400, 3, growing=True), names(400), budget=0.02, escalation=0.1, flag_on="answer",
            weights=(0.5,), drift=drift,
        )  # fmt: skip


def test_readings_that_choose_nothing_are_refused() -> None:
    for broken in ([math.nan], [0.0, math.inf]):
        with pytest.raises(CalibrationError, match="finite probe logits"):
            choose_drift([Trace(broken, broken)] * 9, escalation=0.1, flag_on="both", stride=8)


@given(lengths=st.lists(st.integers(0, 12), max_size=60), parts=st.integers(1, 10))
def test_groups_of_rising_length_hold_all_and_part_no_equals(lengths, parts) -> None:
    groups = split_by_length(np.array(lengths, dtype=np.int64), parts)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    spans = [[lengths[i] for i in group] for group in groups]
    assert all(spans)
    assert len(spans) <= parts
    assert all(max(a) < min(b) for a, b in pairwise(spans))
    if len(set(lengths)) == len(lengths) >= parts:
        assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_rows_by_length() -> None:
    blocks = [1, 1, 1, 3, 3, 5, 6, 7, 8, 9, 10, 200]
    traces = [Trace(np.zeros(own), np.zeros(own)) for own in blocks]
    escalated = np.array([False] * 6 + [True] * 6)
    rows = escalated_by_length(traces, escalated, 4)
    assert rows[0].tokens == 0
    assert rows[-1].tokens == 4 * 199
    assert sum(row.n for row in rows) == 12
    assert [row.share for row in rows if row.tokens < 20] == [0.0] * sum(row.tokens < 20 for row in rows)
    assert rows[0].n == 3
    assert escalated_by_length([], np.zeros(0, dtype=bool), 4) == ()
