"""Rates over several sets, and whether one system is at least as robust as another."""

import numpy as np
import pytest

from lockgate.errors import ExchangeError
from lockgate.evaluation import Detections, at_least_as_robust, macro_rate, pool, wilson


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


def test_identical_flags_are_no_certainty():
    sets = [Detections(np.array([True, False, True]), ["a", "b", "c"])]
    assert at_least_as_robust(sets, sets, fpr=0.01).difference.upper == wilson(0, 3)[1]
