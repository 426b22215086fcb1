"""Correlation with its interval, and what a mixture gains, against slow counts and simulated samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lockgate.judges import JudgeCost
from lockgate.traffic import Arrangement, Correlation, JudgeReport
from lockgate.traffic._judge_report import BEHIND, Gain, spearman_interval

PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=40)


@given(PAIRS)
def test_ranks_correlate_as_in_scipy(pairs) -> None:
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = Correlation.of("x", first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert (found.spearman, found.interval) == (None, None)
        return
    assert found.spearman == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)
    assert -1 <= found.interval.lower <= found.spearman + 1e-9
    assert found.spearman - 1e-9 <= found.interval.upper <= 1
    assert found.to_dict()["spearman_interval"] == list(found.interval)


def test_the_interval_covers_the_rank_correlation_of_the_population() -> None:
    # Of normal variables with the correlation r, the ranks correlate by 6 / pi * asin(r / 2).
    draw, covered, rounds = np.random.default_rng(3), 0, 400
    truth = 6 / math.pi * math.asin(0.6 / 2)
    for _ in range(rounds):
        first = draw.normal(size=60)
        second = 0.6 * first + 0.8 * draw.normal(size=60)
        interval = Correlation.of("x", first.tolist(), second.tolist()).interval
        covered += interval.lower <= truth <= interval.upper
    assert 0.92 <= covered / rounds <= 0.98


def test_few_pairs_have_no_interval_and_equal_ranks_a_sure_one() -> None:
    assert spearman_interval(0.5, 3) is None
    assert Correlation.of("x", [1, 2, 3, 4, 5], [2, 4, 6, 8, 10]).interval == pytest.approx((1.0, 1.0))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_gain_counts_what_only_one_of_two_finds(flags) -> None:
    mixture, other = (np.array([pair[side] for pair in flags]) for side in (0, 1))
    gain = Gain.of("probe alone", mixture, other)
    assert gain.gained == sum(a and not b for a, b in flags)
    assert gain.lost == sum(b and not a for a, b in flags)
    assert gain.share == pytest.approx(mixture.mean() - other.mean())
    assert -1 <= gain.interval.lower <= gain.share <= gain.interval.upper <= 1


def arrangement(name: str, caught: list[bool] | None) -> Arrangement:
    flags = None if caught is None else np.array(caught)
    return Arrangement(name, 10, 1, 1, 0.1, 1.0, None, JudgeCost(), None, flags)


def test_a_report_compares_the_mixture_with_all_others() -> None:
    rows = (
        arrangement("probe alone", [True, False, False, False]),
        arrangement(BEHIND, [True, True, False, True]),
        arrangement("judge alone", [False, True, True, True]),
    )
    report = JudgeReport("j", "endpoint", "0" * 64, None, Correlation("x", 0, None, None), rows)
    gains = {gain["over"]: gain for gain in report.to_dict()["gains"]}
    assert list(gains) == ["probe alone", "judge alone"]
    assert (gains["probe alone"]["gained"], gains["probe alone"]["lost"]) == (2, 0)
    assert (gains["judge alone"]["gained"], gains["judge alone"]["lost"]) == (1, 1)
    assert gains["judge alone"]["share"] == 0.0
    without = (arrangement(BEHIND, None), arrangement("probe alone", None))
    assert JudgeReport("j", "endpoint", "", None, report.correlation, without).gains == ()
