"""Rank correlations, robustness and delay: against scipy, slow loops and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from lockgate.errors import ExchangeError
from lockgate.evaluation import Detections, at_least_as_robust, macro_rate, summarise_delay
from lockgate.evaluation._intervals import Clusters, wilson
from lockgate.evaluation._robust import pool
from recipes.reproduce_ccpp.study import rank_correlations
from recipes.reproduce_ccpp.study.delay import delivered
from recipes.reproduce_ccpp.study.spearman import weighted_ranks
from recipes.reproduce_ccpp.study.systems import Cost, SystemScores

TIED = arrays.arrays(np.float64, st.integers(3, 30), elements=st.integers(0, 6).map(float))


@given(TIED, st.data())
def test_weighted_ranks_are_those_of_repeated_rows(values, data):
    counts = data.draw(arrays.arrays(np.int64, len(values), elements=st.integers(0, 3)))
    repeated = stats.rankdata(np.repeat(values, counts))
    found = weighted_ranks(values, counts[None].astype(float))[0]
    np.testing.assert_allclose(np.repeat(found, counts), repeated)


def test_correlations_are_spearmans():
    rng = np.random.default_rng(1)
    base = rng.normal(size=300)
    values = {"a": base, "b": base + rng.normal(size=300), "c": np.round(-base, 1), "low": base.copy()}
    values["low"][:20] = -np.inf
    clusters = Clusters(np.arange(300), 400, 0)
    found = rank_correlations(values, clusters)
    assert found.names == ("a", "b", "c", "low")
    for i, first in enumerate(values.values()):
        for j, second in enumerate(values.values()):
            entry = found.matrix[i][j]
            ranks = [stats.rankdata(side) for side in (first, second)]
            assert entry.value == pytest.approx(stats.spearmanr(*ranks).statistic)
            assert entry.lower - 1e-9 <= entry.value <= entry.upper + 1e-9
    # Fisher's approximation of the interval's half width.
    half = (found.matrix[0][1].upper - found.matrix[0][1].lower) / 2
    assert half == pytest.approx(1.96 * (1 - found.matrix[0][1].value ** 2) / np.sqrt(300), rel=0.3)


def test_a_constant_scorer_has_no_correlation_and_nan_is_refused():
    clusters = Clusters(np.arange(5), 100, 0)
    found = rank_correlations({"a": np.arange(5.0), "flat": np.zeros(5)}, clusters)
    assert found.matrix[0][1] is None
    assert found.matrix[0][0].value == pytest.approx(1.0)
    with pytest.raises(ExchangeError, match="scorer a has rows without a score"):
        rank_correlations({"a": np.array([0.0, 1.0, np.nan, 2.0, 3.0])}, clusters)
    with pytest.raises(ExchangeError, match="2 harmful rows"):
        rank_correlations({"a": np.arange(2.0)}, Clusters(np.arange(2), 100, 0))


def detections(rate, n, prefix, repeat=1):
    flags = np.arange(n) < rate * n
    return Detections(flags, [f"{prefix}{i // repeat}" for i in range(n)])


def test_macro_rates_weigh_sets_and_not_rows():
    found = macro_rate([detections(0.5, 200, "a"), detections(1.0, 20, "b")], resamples=1000)
    assert found.value == pytest.approx(0.75)
    assert (found.n, found.n_prompts) == (220, 220)
    # The second set does not vary: it can only be lower, by Wilson's width.
    half, width = 1.96 * 0.5 * np.sqrt(0.25 / 200), (1 - wilson(20, 20)[0]) / 2
    assert found.upper - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.lower == pytest.approx(np.hypot(half, width), rel=0.05)
    assert macro_rate([Detections(np.zeros(0, bool), [])]) is None


def test_prompts_and_not_rows_are_what_is_drawn():
    narrow = macro_rate([detections(0.5, 400, "a")], resamples=1000)
    wide = macro_rate([detections(0.5, 400, "a", repeat=4)], resamples=1000)
    assert (wide.upper - wide.lower) / (narrow.upper - narrow.lower) == pytest.approx(2.0, rel=0.2)


def test_at_least_as_robust_needs_the_lower_end_above_the_margin():
    same = [detections(0.6, 300, "a"), detections(0.4, 100, "b")]
    found = at_least_as_robust(same, same, names=("x", "y"), fpr=0.01)
    width = np.hypot(wilson(0, 300)[1], wilson(0, 100)[1]) / 2
    assert (found.difference.value, found.at_least) == (0.0, True)
    assert (found.difference.lower, found.difference.upper) == pytest.approx((-width, width))
    worse = [detections(0.5, 300, "a"), detections(0.4, 100, "b")]
    found = at_least_as_robust(worse, same, fpr=0.01)
    assert found.difference.value == pytest.approx(-0.05)
    assert not found.at_least
    assert at_least_as_robust(same, worse, fpr=0.01).at_least
    pooled = at_least_as_robust(worse, same, fpr=0.01, macro=False)
    assert pooled.difference.value == pytest.approx(-30 / 400)
    with pytest.raises(ExchangeError, match="hold different harmful rows"):
        at_least_as_robust(same, same[:1], fpr=0.01)


def test_a_few_prompts_that_all_agree_prove_nothing():
    few = [detections(0.6, 300, "a"), detections(1.0, 14, "b")]
    found = at_least_as_robust(few, few, fpr=0.01)
    assert found.difference.lower < -wilson(0, 14)[1] / 2
    assert not found.at_least
    alone = macro_rate([detections(1.0, 14, "b", repeat=2)])
    assert (alone.lower, alone.upper, alone.method) == (pytest.approx(wilson(7, 7)[0]), 1.0, "wilson")


def test_pooled_parts_are_one_set():
    parts = [detections(0.5, 10, "a"), detections(1.0, 30, "b")]
    assert macro_rate([pool(parts)]).value == pytest.approx(35 / 40)
    # A prompt that stands in both parts is one prompt.
    assert macro_rate([pool([parts[0], parts[0]])]).n_prompts == 10


def test_what_is_out_before_the_halt_by_hand():
    low, cut = -1.0, 0.0
    ends = np.array([[0, 8, 16, 20]] * 5)
    scores = np.array(
        [
            [9.0, low, low, low],  # halted before the answer
            [low, 9.0, low, low],  # suspicion begins in the block that flags: all of it but one token
            [low, low, 9.0, low],  # suspicious since block 1: what was cleared at its end
            [low, low, low, 9.0],  # suspicion begins in the last block
            [low, low, low, low],
        ]
    )
    began = np.zeros((5, 4), dtype=bool)
    began[0, 0] = began[1, 1] = began[2, 1] = began[3, 3] = True
    free = Cost(*(np.zeros(5) for _ in range(4)))
    halted, tokens = delivered(SystemScores(scores, ends, free, began), cut)
    assert halted.tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(tokens, [0, 7, 8, 19, np.nan])
    # Where every block waits for its verdict, nothing of the flagging block is out.
    np.testing.assert_array_equal(delivered(SystemScores(scores, ends, free), cut)[1], [0, 0, 8, 16, np.nan])
    share = np.where(halted, tokens / 20, np.inf)
    delay = summarise_delay("x", halted, tokens, share, Clusters(np.arange(5), 100, 0))
    assert (delay.halted.value, delay.before_half.value, delay.at_prompt.value) == (0.8, 0.6, 0.2)
    assert delay.tokens[0] == 7.5
    assert delay.curve[0] == 0.2
    assert delay.curve[-1] == 0.8


def test_nobody_halted_has_no_delay():
    none = np.zeros(3, dtype=bool)
    delay = summarise_delay("x", none, np.full(3, np.nan), np.full(3, np.inf), Clusters(np.arange(3), 100, 0))
    assert delay.tokens is None
    assert delay.halted.value == 0.0
