"""Rank correlations against scipy and Fisher's approximation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from lockgate.errors import ExchangeError
from lockgate.evaluation import Clusters
from recipes.reproduce_ccpp.study import rank_correlations
from recipes.reproduce_ccpp.study.spearman import weighted_ranks

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
