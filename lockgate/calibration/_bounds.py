"""Exact binomial bounds (Clopper and Pearson 1934) and the sample sizes that follow from them."""

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from lockgate._extras import need
from lockgate.errors import CalibrationError


class Interval(NamedTuple):
    """A closed two-sided interval of a rate, within [0, 1]."""

    lower: float
    upper: float


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Compute the two-sided exact interval of a rate after `k` events in `n` independent trials.

    Each tail holds half of 1 - confidence. Without trials the interval is [0, 1].

    Raises:
        CalibrationError: the counts or the confidence are impossible.
    """
    _check_counts(k, n)
    _check_share("confidence", confidence)
    if n == 0:
        return Interval(0.0, 1.0)
    tail = (1.0 - confidence) / 2.0
    lower = 0.0 if k == 0 else beta_quantile(k, n - k + 1, tail)
    upper = 1.0 if k == n else beta_quantile(k + 1, n - k, 1.0 - tail)
    return Interval(lower, upper)


def clopper_pearson_upper(k: int, n: int, confidence: float = 0.95) -> float:
    """Compute the one-sided exact upper bound of a rate after `k` events in `n` independent trials.

    The true rate exceeds the bound in at most a share 1 - confidence of all samples.

    Raises:
        CalibrationError: the counts or the confidence are impossible.
    """
    _check_counts(k, n)
    _check_share("confidence", confidence)
    return 1.0 if k == n else beta_quantile(k + 1, n - k, confidence)


def allowed_flags(n: int, budget: float, confidence: float = 0.95) -> int | None:
    """Return the largest number of flags among `n` benign exchanges that keeps the upper bound in `budget`.

    The result is None if the bound exceeds the budget even with no flag. n = 12,000 allows 6 flags at a
    budget of 0.001, and 1 at 0.0005.
    """
    _check_share("budget", budget)
    if clopper_pearson_upper(0, n, confidence) > budget:
        return None
    # The bound grows with k.
    return bisect_right(range(n + 1), budget, key=lambda k: clopper_pearson_upper(k, n, confidence)) - 1


def required_n(budget: float, flags: int = 0, confidence: float = 0.95) -> int:
    """Return the smallest number of distinct benign prompts that keeps `budget` with `flags` flags.

    Raises:
        CalibrationError: an argument lies outside its range.
    """
    _check_share("budget", budget)
    _check_share("confidence", confidence)
    if flags < 0:
        raise CalibrationError(f"flags is {flags}; expected 0 or more")
    high = max(flags + 1, math.ceil((flags + 1) / budget))
    while clopper_pearson_upper(flags, high, confidence) > budget:
        high *= 2
    # The bound falls with n.
    sizes = range(flags + 1, high + 1)
    return sizes[bisect_left(sizes, -budget, key=lambda n: -clopper_pearson_upper(flags, n, confidence))]


def _check_counts(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise CalibrationError(f"{k} events in {n} trials; expected 0 <= events <= trials")


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise CalibrationError(f"{name} is {value}; expected a share strictly between 0 and 1")


def beta_quantile(a: float, b: float, share: float) -> float:
    """Return the point at which the distribution function of Beta(a, b) reaches `share`."""
    special = need("scipy.special", extra="calibrate", feature="an exact bound of a rate")
    return float(special.betaincinv(a, b, share))
