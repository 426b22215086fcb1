"""Whether traffic has left what calibration saw, at any time: it may be looked at as often as one likes.

A claim says that the share of exchanges with some property lies within an interval. The evidence against it
is a mixture of likelihoods (Robbins 1970) over the largest likelihood that the claim allows. By Ville's
inequality it ever exceeds 1/0.01 with a probability of at most 0.01 while the claim holds and the exchanges
are independent. Shares may change late, so the mixture also begins anew again and again, with weights that
sum to 1. What has been seen is a few numbers, however many exchanges they were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lockgate.calibration._bounds import Interval, beta_quantile
from lockgate.errors import CalibrationError

__all__ = ["Claim", "Seen", "evidence", "observe", "share_above"]

# Beginnings that are followed at a time: the first one and the newest. Leaving some out keeps the test valid.
_BEGINNINGS = 32
_LOG_2 = math.log(2.0)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is claimed about a share.

    Attributes:
        lower, upper: the share lies between them.
        alarm: probability of a false alarm, over all looks together.
        near: a share of the size that is expected. The test holds for any, and is quickest near it.
        stretch: exchanges after which the mixture begins anew.
        every: exchanges between two looks.

    Raises:
        CalibrationError: a number lies outside its range.
    """

    lower: float
    upper: float
    alarm: float
    near: float
    stretch: int = 1000
    every: int = 20

    def __post_init__(self) -> None:
        if not 0.0 <= self.lower <= self.upper <= 1.0:
            raise CalibrationError(f"{self.lower} to {self.upper}: expected an interval within 0 and 1")
        for name in ("alarm", "near"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise CalibrationError(f"{name}: expected a share strictly between 0 and 1")
        if self.stretch < 1 or self.every < 1:
            raise CalibrationError("stretch and every: expected at least 1")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a claim has met. It depends on the exchanges in their order, not on when somebody looked.

    Attributes:
        n, hits: exchanges, and those of them that have the property.
        begins: of the beginnings that are followed, their number, and `n` and `hits` before them.
        left_at: number of the exchange, from 1, at which the claim was given up; None if it was not.
    """

    n: int = 0
    hits: int = 0
    begins: tuple[tuple[int, int, int], ...] = ()
    left_at: int | None = None


def observe(seen: Seen, hits: Sequence[bool], claim: Claim) -> Seen:
    """Take further exchanges: whether each has the property. After every few of them the claim is tested."""
    n, count, begins, left_at = seen.n, seen.hits, seen.begins, seen.left_at
    limit = -math.log(claim.alarm)
    for hit in hits:
        if n % claim.stretch == 0:
            begins = _newest((*begins, (n // claim.stretch, n, count)))
        n += 1
        count += bool(hit)
        if left_at is None and n % claim.every == 0 and _evidence(n, count, begins, claim) > limit:
            left_at = n
    return Seen(n, count, begins, left_at)


def evidence(seen: Seen, claim: Claim) -> float:
    """Return the natural logarithm of the evidence against a claim. Above log(1 / alarm) it is given up."""
    return _evidence(seen.n, seen.hits, seen.begins, claim)


def share_above(n: int, quantile: float, error: float) -> Interval:
    """Compute an interval for the share of a distribution above a sample's quantile.

    A quantile of a sample is uncertain: above the 0.999 quantile of 12,000 scores lie perhaps 0.05 %, perhaps
    0.2 % of all. The share above an ordered score has a beta distribution, whatever the scores' own is.

    Args:
        n: size of the sample.
        quantile: strictly between 0 and 1, computed as NumPy does by default, between two ordered scores.
        error: probability that the share lies outside.

    Raises:
        CalibrationError: an argument lies outside its range.
        MissingExtra: SciPy is not installed.
    """
    if n < 1 or not 0.0 < quantile < 1.0 or not 0.0 < error < 1.0:
        raise CalibrationError("expected a sample, and shares strictly between 0 and 1")
    # The quantile lies between the ordered scores of these ranks, counted from the least as 1. Where the
    # product is a whole number, rounding may have moved it to either side of its score.
    place = (n - 1) * quantile
    below, above = max(1, math.floor(place - 1e-9) + 1), min(n, math.floor(place + 1e-9) + 2)
    tail = error / 2.0
    lower = 0.0 if above == n else beta_quantile(n - above + 1, above, tail)
    return Interval(lower, beta_quantile(n - below + 1, below, 1.0 - tail))


def _evidence(n: int, hits: int, begins: Sequence[tuple[int, int, int]], claim: Claim) -> float:
    terms = []
    for number, n_before, hits_before in begins:
        length, found = n - n_before, hits - hits_before
        allowed = min(max(found / length, claim.lower), claim.upper) if length else claim.near
        # The weights of all beginnings, also of those to come, sum to 1.
        term = -math.log((number + 1) * (number + 2))
        if found:
            term -= found * math.log(allowed) if allowed > 0.0 else -math.inf
        if length > found:
            term -= (length - found) * math.log1p(-allowed) if allowed < 1.0 else -math.inf
        # Half of the mixture lies near the shares that are expected, and half anywhere.
        for b in (0.5 / claim.near, 0.5):
            likelihood = _log_beta(0.5 + found, b + length - found) - _log_beta(0.5, b)
            terms.append(term + likelihood - _LOG_2)
    highest = max(terms, default=-math.inf)
    if math.isinf(highest):
        return highest
    return highest + math.log(sum(math.exp(term - highest) for term in terms))


def _newest(begins: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    return begins if len(begins) <= _BEGINNINGS else (begins[0], *begins[1 - _BEGINNINGS :])


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
