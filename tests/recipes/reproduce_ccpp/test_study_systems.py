"""Cuts, the joint budget of two classifiers, and what systems cost, against slow loops and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from studies import MODELS, VERDICT_TOKENS, make_study

from lockgate.calibration import ESCALATIONS
from lockgate.errors import CalibrationError
from recipes.reproduce_ccpp.study import StudyData, StudySpec
from recipes.reproduce_ccpp.study.delay import delivered
from recipes.reproduce_ccpp.study.systems import Systems, cut_at, exceedance

# Few distinct values, so that ties are the rule.
SCORES = arrays.arrays(np.float64, st.integers(2, 40), elements=st.integers(-5, 5).map(float))
SHARES = st.floats(0.001, 0.6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return StudyData(StudySpec.read(make_study(tmp_path_factory.mktemp("study"))))


@given(SCORES, SHARES)
def test_no_more_than_the_share_lies_above_a_cut(values, share):
    cut = cut_at(values, share)
    assert (values > cut).sum() <= share * len(values) + 1e-9
    lower = values[values < cut]
    if len(lower):
        assert (values > lower.max()).sum() > math.floor(share * len(values) + 1e-9)


def test_few_escalations_leave_the_cut_open_and_failures_close_it():
    assert cut_at(np.array([-np.inf] * 9 + [3.0]), 0.1) == -np.inf
    with pytest.raises(CalibrationError, match="more than 1 of 10 benign calibration exchanges"):
        cut_at(np.array([0.0] * 8 + [np.inf] * 2), 0.1)
    with pytest.raises(CalibrationError, match="no benign calibration prompt"):
        cut_at(np.array([]), 0.1)


@st.composite
def pairs(draw):
    first = draw(SCORES)
    return first, draw(arrays.arrays(np.float64, len(first), elements=st.integers(-5, 5).map(float)))


@given(pairs(), SHARES)
def test_a_joint_budget_holds_and_is_the_largest_at_equal_ranks(pair, share):
    first, second = pair
    n = len(first)
    k = math.floor(share * n + 1e-9)
    joint = np.maximum(exceedance(first, first), exceedance(second, second))
    flagged = joint > cut_at(joint, share)
    assert flagged.sum() <= k

    def union(rank):
        """The first `rank` of each, ties at the edge left out."""
        edges = [np.sort(side)[n - 1 - rank] for side in pair]
        return (first > edges[0]) | (second > edges[1])

    allowed = [rank for rank in range(n) if union(rank).sum() <= k]
    assert np.array_equal(flagged, union(max(allowed)))


def test_new_scores_flag_above_the_same_edges():
    rng = np.random.default_rng(0)
    first, second, new = rng.normal(size=200), rng.normal(size=200), rng.normal(size=(2, 50)) + 1.5
    cut = cut_at(np.maximum(exceedance(first, first), exceedance(second, second)), 0.05)
    rank = int(-cut) - 1
    edges = [np.sort(side)[199 - rank] for side in (first, second)]
    flagged = np.maximum(exceedance(first, new[0]), exceedance(second, new[1])) > cut
    assert np.array_equal(flagged, (new[0] > edges[0]) | (new[1] > edges[1]))


def test_calibration_flags_stay_within_the_share(data):
    systems = Systems(data)
    for name in (*systems.names, "probe"):
        scores = systems.score(name, "calibration")
        for share in (0.01, 0.05):
            flagged = scores.values[systems.rows] > systems.cut(scores, share)
            assert flagged.sum() <= share * len(systems.rows)
    for name in systems.gates:
        escalated = systems.score(name, "calibration").escalated[systems.rows]
        assert escalated.mean() <= {"production": 0.1, "cascade": 0.2}[name]


def test_stage_two_is_paid_for_what_it_reads(data):
    systems = Systems(data)
    part = data.reference("benign_test")
    scores = systems.score("production", "benign_test")
    gate = systems.gates["production"]
    for i in range(len(part.table)):
        present = part.blocks.present[i]
        probe, ends = part.blocks.screen[i][present], part.blocks.ends[i][present]
        judged, suspicious, quiet = [], False, 0
        for j, p in enumerate(probe):
            if p > gate.escalate:
                suspicious, quiet = True, 0
            elif suspicious:
                quiet += 1
            if suspicious:
                judged.append(j)
            suspicious = suspicious and quiet < 2
        length = part.table.lengths[i]
        reads = length - ends[-1] + ends[judged[-1]] + VERDICT_TOKENS * len(judged) if judged else 0
        flops = MODELS["probe_exchange"][1] * reads
        assert scores.cost.engine[i] == pytest.approx(flops + 100.0 * length)
        assert scores.cost.front[i] == pytest.approx(flops + 100.0 * length + 2e6 * length)
        assert scores.escalated[i] == bool(judged)


def test_the_last_generation_reads_with_both_classifiers(data):
    scores = Systems(data).score("last_generation", "benign_test")
    both = [data.part(name, "benign_test").table.floats("flops_stage2") for name in ("input", "output")]
    np.testing.assert_allclose(scores.cost.engine, both[0] + both[1])
    np.testing.assert_array_equal(scores.cost.engine, scores.cost.front)


def test_the_prompt_alone_never_flags_where_only_answers_may(tmp_path):
    data = StudyData(StudySpec.read(make_study(tmp_path, flag_on="answer")))
    systems = Systems(data)
    for name in ("exchange", "production", "cascade", "probe"):
        assert np.isneginf(systems.score(name, "harmful_one").scores[:, 0]).all()


def test_the_probe_alone_holds_no_block_back(data):
    scores = Systems(data).score("probe", "harmful_one")
    halted, tokens = delivered(scores, 1.0)
    block = np.argmax(scores.scores > 1.0, axis=1)
    expected = [max(0, ends[j] - 1) for ends, j in zip(scores.ends, block, strict=True)]
    assert halted.any()
    np.testing.assert_array_equal(tokens[halted], np.array(expected)[halted])
    assert Systems(data).score("exchange", "harmful_one").began is None


def test_a_fixed_weight_is_kept_and_a_free_one_is_from_the_development_part(tmp_path, data):
    assert Systems(data).gates["cascade"].weight == 0.0
    chosen = Systems(data).gates["production"].weight
    assert 0 < chosen < 1
    fixed = make_study(tmp_path, production={"escalation": 0.1, "weight": 0.25})
    assert Systems(StudyData(StudySpec.read(fixed))).gates["production"].weight == 0.25


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5])
def test_escalating_less_stops_where_it_would_lose_more_than_allowed(tmp_path, lost):
    data = StudyData(
        StudySpec.read(make_study(tmp_path, production={"escalation": 0.4, "lost": lost, "weight": 0.25}))
    )
    systems, spec = Systems(data), data.spec
    gate = systems.gates["production"]
    whole = replace(gate, escalate=-np.inf)
    cut = systems.cut(systems.gated("production", spec.calibration, whole), spec.operating_point)
    harmful = systems.harmful(spec.development)
    flagged = systems.gated("production", spec.development, whole).values[harmful] > cut
    assert flagged.any()

    def share_lost(escalation: float) -> float:
        trial = replace(gate, escalate=systems.escalate_at("production", escalation))
        return float(
            (~systems.gated("production", spec.development, trial).escalated[harmful][flagged]).mean()
        )

    enough = [e for e in ESCALATIONS if e < 0.4 and share_lost(e) <= lost]
    assert gate.escalate == systems.escalate_at("production", min(enough, default=0.4))
    assert (gate.escalate > systems.escalate_at("production", 0.4)) == bool(enough)
