"""The test of a rate that may be looked at after every exchange."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.calibration import allowed_flags, clopper_pearson_upper
from lockgate.calibration.sequential import anytime_interval, n_to_claim, watch_rate
from lockgate.errors import CalibrationError

# Long enough for several beginnings, which come every 1/budget exchanges.
LENGTH = 11


def sequences():
    return itertools.product((0, 1), repeat=LENGTH)


def places(flags):
    return [place for place, flag in enumerate(flags, start=1) if flag]


def probability(flags, rate):
    return rate ** sum(flags) * (1 - rate) ** (len(flags) - sum(flags))


@pytest.mark.parametrize("budget", [0.3, 0.05])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_evidence_against_a_rate_in_the_budget_is_at_most_one_on_average(budget, share):
    rate = budget * share
    total = sum(
        probability(flags, rate) * math.exp(watch_rate(LENGTH, places(flags), budget).evidence)
        for flags in sequences()
    )
    assert total <= 1 + 1e-9
    assert share < 1 or total == pytest.approx(1)


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_false_alarms_are_no_more_often_than_promised(confidence):
    """Summed over all sequences, for a watcher who looks after each exchange."""
    alarms = sum(
        probability(flags, 0.2)
        for flags in sequences()
        if watch_rate(LENGTH, places(flags), 0.2, confidence).left_at is not None
    )
    assert 0 < alarms <= 1 - confidence


def test_an_alarm_comes_at_the_first_look_that_shows_it():
    for flags in itertools.product((0, 1), repeat=7):
        found = watch_rate(7, places(flags), 0.2, 0.9)
        looks = [watch_rate(n, places(flags[:n]), 0.2, 0.9).evidence > math.log(10) for n in range(1, 8)]
        first = looks.index(True) + 1 if True in looks else None
        assert found.left_at == first


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.7])
def test_the_interval_holds_at_all_looks_together(rate):
    missed = 0.0
    intervals = {(k, n): anytime_interval(k, n, 0.1, 0.8) for n in range(1, LENGTH + 1) for k in range(n + 1)}
    for flags in sequences():
        counts = np.cumsum(flags)
        looks = [intervals[int(counts[n - 1]), n] for n in range(1, LENGTH + 1)]
        if not all(look.lower <= rate <= look.upper for look in looks):
            missed += probability(flags, rate)
    assert missed <= 0.2


@given(st.integers(0, 5_000), st.data())
def test_the_interval_holds_the_rate_seen_and_narrows(n, data):
    flags = data.draw(st.integers(0, n))
    found = anytime_interval(flags, n, 0.001)
    assert 0 <= found.lower <= (flags / n if n else 0) <= found.upper <= 1
    if n:
        longer = anytime_interval(4 * flags, 4 * n, 0.001)
        assert longer.upper - longer.lower <= found.upper - found.lower + 1e-12


@pytest.mark.parametrize("calm", [0, 50_000])
def test_a_rate_of_eight_times_the_budget_is_found_also_after_calm_times(calm):
    flagged = [calm + 250 * number for number in range(1, 41)]
    found = watch_rate(calm + 10_000, flagged, 0.0005)
    assert found.left_at is not None
    assert calm < found.left_at <= calm + 8_000


def test_a_rate_at_the_budget_gives_no_alarm():
    assert watch_rate(1_000_000, range(2_000, 1_000_001, 2_000), 0.0005).left_at is None


@given(st.sampled_from([0.01, 0.001]), st.integers(0, 4), st.integers(0, 5_000))
def test_the_number_for_a_claim_is_enough_and_no_smaller_one_is(budget, flags, n):
    n = max(n, flags)
    wanted = n_to_claim(budget, flags, n)
    if wanted is None:
        assert flags >= max(1, budget * n)
        return
    expected = max(flags, math.ceil(flags / n * wanted)) if flags else 0
    assert wanted >= n
    assert clopper_pearson_upper(expected, wanted) <= budget
    if wanted > n:
        before = math.ceil(flags / n * (wanted - 1)) if flags else 0
        allowed = allowed_flags(wanted - 1, budget)
        assert allowed is None or before > allowed or before == expected > allowed


@pytest.mark.parametrize(
    ("n", "flagged", "budget", "confidence", "words"),
    [
        (5, [6], 0.1, 0.95, "from 1 to n"),
        (5, [0], 0.1, 0.95, "from 1 to n"),
        (5, [2, 2], 0.1, 0.95, "rising"),
        (5, [], 0.0, 0.95, "budget"),
        (5, [], 0.1, 1.0, "confidence"),
    ],
)
def test_impossible_numbers_are_refused(n, flagged, budget, confidence, words):
    with pytest.raises(CalibrationError, match=words):
        watch_rate(n, flagged, budget, confidence)
