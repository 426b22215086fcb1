"""A test of a refusal rate that holds at any time: it may be looked at after every exchange, for years.

A bound at a fixed n (see `_bounds`) holds for one look. Whoever looks every day and stops at a bad one is
misled more often than its confidence says. Here the confidence covers all looks together.

The test is a mixture of likelihood ratios (Robbins 1970) against the rates in the budget. By Ville's
inequality it ever exceeds 1/0.05 with a probability of at most 0.05 while the rate keeps the budget. A rate
may rise late, so the mixture also begins anew every 1/budget exchanges, with weights that sum to 1.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration._bounds import Interval, clopper_pearson_upper, required_n
from lockgate.errors import CalibrationError

__all__ = ["RateTest", "anytime_interval", "n_to_claim", "watch_rate"]

# Rates that the mixture tries, as multiples of the budget's odds.
_MULTIPLES = np.geomspace(1.25, 64.0, 24)
# Beginnings that are followed at a time: the first one and the newest. Leaving some out keeps the test valid.
_BEGINNINGS = 256
_STEPS = 200


@dataclass(frozen=True, slots=True)
class RateTest:
    """What a sequence of exchanges says about the rate of its flags.

    Attributes:
        n, flags: exchanges, and the flagged ones of them.
        budget: the rate that the test asks about.
        confidence: 1 less the probability of a false alarm, over all looks together.
        evidence: the test's value after the last exchange, as its natural logarithm. Above
            log(1 / (1 - confidence)) the rate is over the budget.
        left_at: the number of the exchange, counted from 1, at which that was first so; None if it never was.
        rate: an interval for the rate that holds at any time, if the rate has not changed.
    """

    n: int
    flags: int
    budget: float
    confidence: float
    evidence: float
    left_at: int | None
    rate: Interval


def watch_rate(n: int, flagged: Sequence[int], budget: float, confidence: float = 0.95) -> RateTest:
    """Test whether the rate of flags has left a budget.

    The exchanges must be independent of each other, given the rate: distinct prompts in the order of time.

    Args:
        n: number of exchanges.
        flagged: numbers of the flagged ones, counted from 1, in rising order.
        budget: the largest rate that is allowed.
        confidence: 1 less the probability of a false alarm.

    Raises:
        CalibrationError: the numbers are impossible, or budget or confidence is no share.
    """
    for name, share in (("budget", budget), ("confidence", confidence)):
        if not 0.0 < share < 1.0:
            raise CalibrationError(f"{name} is {share}; expected a share strictly between 0 and 1")
    places = [0, *flagged, n + 1]
    if any(after <= before for before, after in itertools.pairwise(places)):
        raise CalibrationError("flagged: expected numbers from 1 to n, each once, in rising order")
    mixture = _Mixture(budget)
    limit, left_at = -math.log1p(-confidence), None
    for count, place in enumerate(flagged, start=1):
        # Between flags the value falls, so it can only rise above the limit at a flag.
        if mixture.flag(place, count) > limit and left_at is None:
            left_at = place
    return RateTest(
        n=n,
        flags=len(flagged),
        budget=budget,
        confidence=confidence,
        evidence=mixture.value(n, len(flagged)),
        left_at=left_at,
        rate=anytime_interval(len(flagged), n, budget, confidence),
    )


def anytime_interval(flags: int, n: int, near: float, confidence: float = 0.95) -> Interval:
    """Compute an interval for a rate that holds after every exchange at once.

    Args:
        near: a rate of the size that is expected. The interval holds for any rate, and is narrowest near it.
    """
    a, b = 0.5, 0.5 / near
    limit = -math.log1p(-confidence)
    constant = _log_beta(a + flags, b + n - flags) - _log_beta(a, b)

    def outside(rate: float) -> bool:
        lost = flags * math.log(rate) if flags else 0.0
        kept = (n - flags) * math.log1p(-rate) if n > flags else 0.0
        return constant - lost - kept > limit

    found = flags / n if n else near
    lower = 0.0 if flags == 0 else _edge(outside, 0.0, found)
    upper = 1.0 if flags == n else _edge(outside, 1.0, found)
    return Interval(lower, upper)


def n_to_claim(budget: float, flags: int, n: int, confidence: float = 0.95) -> int | None:
    """Return how many distinct prompts a claim of `budget` needs if flags go on at the rate seen so far.

    The bound is the one of a single look at that number (Clopper and Pearson).

    Returns:
        The number, at least `n`; None if the rate seen is not within the budget, so that no number helps.

    Raises:
        CalibrationError: an argument lies outside its range.
    """
    if n and clopper_pearson_upper(flags, n, confidence) <= budget:
        return n
    rate = flags / n if n else 0.0
    if rate >= budget:
        return None
    expected = flags
    while True:
        wanted = max(n, required_n(budget, expected, confidence))
        found = math.ceil(rate * wanted) if rate else flags
        if found <= expected:
            return wanted
        expected = found


class _Mixture:
    """The mixture of likelihood ratios over rates and beginnings, as the flags come."""

    def __init__(self, budget: float) -> None:
        odds = _MULTIPLES * budget / (1.0 - budget)
        rates = odds / (1.0 + odds)
        self._flag = np.log(rates / budget)
        self._pass = np.log1p(-rates) - math.log1p(-budget)
        self._stretch = math.ceil(1.0 / budget)
        self._known = 0
        self._begin: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._before: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._weight: NDArray[np.float64] = np.zeros(0)

    def flag(self, place: int, count: int) -> float:
        """Take the flag number `count`, at the exchange number `place`, and return the value after it."""
        self._begin_until(place - 1, count - 1)
        return self.value(place, count)

    def value(self, n: int, flags: int) -> float:
        """Return the logarithm of the mixture after `n` exchanges."""
        self._begin_until(n - 1, flags)
        if not len(self._begin):
            return 0.0
        hits = (flags - self._before)[:, None]
        misses = (n - self._begin)[:, None] - hits
        terms = hits * self._flag + misses * self._pass + self._weight[:, None]
        highest = max(0.0, float(terms.max()))
        mean = float(np.exp(terms - highest).sum()) / len(_MULTIPLES)
        # Beginnings to come still stand at 1.
        rest = math.exp(-highest) / (self._known + 1)
        return highest + math.log(mean + rest)

    def _begin_until(self, place: int, count: int) -> None:
        """Begin anew in each stretch up to `place` exchanges, all of them before the next flag."""
        last = place // self._stretch
        if place < 0 or last < self._known:
            return
        numbers = np.arange(max(self._known, last + 1 - _BEGINNINGS), last + 1)
        added = numbers + 1.0
        self._begin = _newest(self._begin, numbers * self._stretch)
        self._before = _newest(self._before, np.full(len(numbers), count))
        self._weight = _newest(self._weight, -np.log(added * (added + 1.0)))
        self._known = last + 1


def _newest(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Return the first value and the newest ones of both."""
    whole = np.concatenate([old, new])
    return whole if len(whole) <= _BEGINNINGS else np.concatenate([whole[:1], whole[1 - _BEGINNINGS :]])


def _edge(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Find the edge of the interval between a point outside of it and one inside. Return the outer side."""
    for _ in range(_STEPS):
        middle = (far + near) / 2.0
        if middle in (far, near):
            break
        if outside(middle):
            far = middle
        else:
            near = middle
    return far


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
