"""What the benchmark of the decision log makes of its rounds: hand-computed differences and intervals."""

from collections import Counter
from fractions import Fraction
from itertools import accumulate, product
from statistics import median

import numpy as np
import pytest

from benchmarks.decision_log import added, interval


def exact(values, confidence):
    """The bootstrap interval of a median over all resamples there are, which few values allow."""
    medians = Counter(median(drawn) for drawn in product(values, repeat=len(values)))
    shares = [Fraction(medians[value], len(values) ** len(values)) for value in sorted(medians)]
    sums = list(accumulate(shares))
    ends = ((1 - Fraction(str(confidence))) / 2, (1 + Fraction(str(confidence))) / 2)
    return tuple(next(v for v, s in zip(sorted(medians), sums, strict=True) if s >= end) for end in ends)


def test_three_rounds_by_hand():
    """Of the 27 resamples of 1, 2 and 6, seven have the median 1, thirteen 2 and seven 6."""
    assert exact([1.0, 2.0, 6.0], 0.95) == (1.0, 6.0)
    assert exact([1.0, 2.0, 6.0], 0.4) == (2.0, 2.0)
    values = np.array([6.0, 1.0, 2.0])
    assert interval(values) == (1.0, 6.0)
    # 7 / 27 lies below 0.3, so the middle 40 % of the medians are all 2.
    assert interval(values, 0.4) == (2.0, 2.0)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("values", [[0.0, 1.0, 3.0, 7.0], [-2.0, -1.0, 5.0, 5.0, 9.0]])
def test_drawn_resamples_say_what_all_of_them_say(values, confidence):
    assert interval(np.array(values), confidence) == pytest.approx(exact(values, confidence))


def test_both_sides_of_a_round_belong_together():
    """The machine grew slower from round to round, and the log always cost 2 ms and 5 ms more."""
    plain = [{"p50": 10.0 * number, "p99": 100.0 * number} for number in range(1, 6)]
    logged = [{"p50": one["p50"] + 2, "p99": one["p99"] + 5} for one in plain]
    wanted = {"p50": 2.0, "p50_low": 2.0, "p50_high": 2.0, "p99": 5.0, "p99_low": 5.0, "p99_high": 5.0}
    assert added(logged, plain) == wanted
