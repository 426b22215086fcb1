"""The test of shares that may be looked at after every exchange, and what a sample's quantile says."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lockgate.calibration.drift import Claim, Seen, evidence, observe, share_above
from lockgate.errors import CalibrationError

# Long enough for several beginnings.
LENGTH = 11


def claim(lower, upper, alarm=0.1, **options):
    return Claim(lower, upper, alarm, **{"near": (lower + upper) / 2, "stretch": 3, "every": 1, **options})


def probability(flags, rate):
    return rate ** sum(flags) * (1 - rate) ** (len(flags) - sum(flags))


@pytest.mark.parametrize(("lower", "upper"), [(0.1, 0.1), (0.0, 0.3), (0.2, 0.6)])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_the_evidence_against_a_claim_that_holds_is_at_most_one_on_average(lower, upper, place):
    rate, about = lower + place * (upper - lower), claim(lower, upper)
    for length in (1, 4, LENGTH):
        total = sum(
            probability(flags, rate) * math.exp(evidence(observe(Seen(), flags, about), about))
            for flags in itertools.product((0, 1), repeat=length)
        )
        assert total <= 1 + 1e-9


@pytest.mark.parametrize("rate", [0.1, 0.25])
@pytest.mark.parametrize("alarm", [0.3, 0.1])
def test_false_alarms_are_no_more_often_than_promised(rate, alarm):
    """Summed over all sequences, for a watcher who looks after each exchange."""
    about = claim(0.1, 0.25, alarm)
    alarms = sum(
        probability(flags, rate)
        for flags in itertools.product((0, 1), repeat=LENGTH)
        if observe(Seen(), flags, about).left_at is not None
    )
    assert alarms <= alarm
    assert alarms > 0 or rate < 0.2


@given(st.lists(st.booleans(), max_size=80), st.lists(st.integers(0, 80), max_size=4), st.integers(1, 7))
def test_it_does_not_matter_how_exchanges_come_in_parts(hits, cuts, every):
    about = claim(0.1, 0.3, stretch=2, every=every)
    places = [0, *sorted(min(cut, len(hits)) for cut in cuts), len(hits)]
    seen = Seen()
    for start, end in itertools.pairwise(places):
        seen = observe(seen, hits[start:end], about)
    assert seen == observe(Seen(), hits, about)
    assert (seen.n, seen.hits) == (len(hits), sum(hits))
    assert len(seen.begins) <= 32


@given(
    st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([(0.0, 0.2), (0.3, 0.3), (0.4, 0.9)])
)
def test_the_evidence_is_the_least_over_all_shares_that_are_claimed(hits, bounds):
    about = claim(*bounds, near=0.3, stretch=1000)
    found, k, n = evidence(observe(Seen(), hits, about), about), sum(hits), len(hits)
    shares = np.unique([*np.linspace(*bounds, 2001), *bounds])
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = np.nan_to_num(stats.binom.logpmf(k, n, shares), neginf=-1e9)
    mixed = np.logaddexp(*(stats.betabinom.logpmf(k, n, 0.5, b) for b in (0.5 / 0.3, 0.5))) - math.log(2)
    assert found == pytest.approx(mixed - likelihood.max() - math.log(2), abs=1e-3)


def test_the_alarm_stays_once_it_was_given():
    about = claim(0.0, 0.1)
    seen = observe(Seen(), [True] * 12, about)
    first = seen.left_at
    assert first is not None
    seen = observe(seen, [False] * 500, about)
    assert seen.left_at == first
    assert evidence(seen, about) < math.log(10)
    assert evidence(Seen(), about) == -math.inf


@pytest.mark.parametrize("calm", [0, 30_000])
@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_change_is_found_also_after_calm_times(calm, change):
    draw = np.random.default_rng(3)
    about = Claim(0.045, 0.055, 0.002, near=0.05)
    seen = observe(Seen(), (draw.random(calm) < 0.05).tolist(), about)
    assert seen.left_at is None
    seen = observe(seen, (draw.random(6000) < (0.1 if change == "more" else 0.02)).tolist(), about)
    assert seen.left_at is not None
    assert calm < seen.left_at < calm + 4000


def test_false_alarms_over_all_looks_and_over_samples_too():
    """Samples with their quantiles, then traffic of the same kind, looked at all the time."""
    draw, runs, error, alarm = np.random.default_rng(11), 150, 0.05, 0.1
    alarms = 0
    for _ in range(runs):
        value = float(np.quantile(draw.random(400), 0.9))
        allowed = share_above(400, 0.9, error)
        about = Claim(allowed.lower, allowed.upper, alarm, near=0.1, stretch=200)
        seen = observe(Seen(), (draw.random(1500) > value).tolist(), about)
        alarms += seen.left_at is not None
    # More would come once in a thousand if the alarms were as frequent as they may be.
    assert alarms <= stats.binom.isf(0.001, runs, error + alarm)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 20, 101, 400])
def test_the_share_above_a_quantile_lies_in_its_interval(n, quantile):
    draw, runs = np.random.default_rng(5), 4000
    found = share_above(n, quantile, 0.1)
    above = 1 - np.quantile(draw.random((runs, n)), quantile, axis=1)
    outside = int(((above < found.lower) | (above > found.upper)).sum())
    assert outside <= stats.binom.isf(0.001, runs, 0.1)
    assert 0 <= found.lower < found.upper <= 1
    assert share_above(100 * n, quantile, 0.1).upper - share_above(100 * n, quantile, 0.1).lower < (
        found.upper - found.lower
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Claim(0.5, 0.4, 0.01, 0.1),
        lambda: Claim(-0.1, 0.4, 0.01, 0.1),
        lambda: Claim(0.0, 0.4, 0.0, 0.1),
        lambda: Claim(0.0, 0.4, 0.01, 1.0),
        lambda: Claim(0.0, 0.4, 0.01, 0.1, stretch=0),
        lambda: share_above(0, 0.5, 0.1),
        lambda: share_above(10, 1.0, 0.1),
        lambda: share_above(10, 0.5, 0.0),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(CalibrationError):
        make()
