"""Intervals that respect prompts: rows of one prompt are resampled together, never apart."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import clopper_pearson
from lockgate.evaluation._curves import Floats, Mask, Roc, weighted_roc

RESAMPLES = 2000
# What names each row's prompt.
Groups = Sequence[str] | NDArray[np.intp] | NDArray[np.str_]

_CONFIDENCE = 0.95
_Z = 1.959963984540054
_CHUNK_CELLS = 2_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, how that was made, and the rows and prompts behind it.

    `method` is wilson, clopper-pearson or cluster-bootstrap; the interval is None where none can be given.
    """

    value: float
    lower: float | None
    upper: float | None
    method: str
    n: int
    n_prompts: int


class Clusters:
    """Prompt clusters of a set of rows, and the bootstrap weights of resampling them with replacement."""

    def __init__(self, groups: Groups, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """`groups` [N] name each row's prompt."""
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        self.index: NDArray[np.intp] = index.reshape(-1)
        self.count = int(self.index.max()) + 1 if len(self.index) else 0
        self.singletons = self.count == len(self.index)
        self.resamples = resamples
        self.seed = seed

    def row_weights(self) -> Iterator[Floats]:
        """Weights [b, N] in chunks, `resamples` in all; the same for every call."""
        for weights in self._cluster_weights():
            yield weights[:, self.index]

    def means(self, values: Floats) -> Floats:
        """Bootstrap distribution [resamples] of the mean over rows of `values` [N]."""
        sums = np.bincount(self.index, weights=values, minlength=self.count)
        sizes = np.bincount(self.index, minlength=self.count)
        parts = [(weights @ sums) / (weights @ sizes) for weights in self._cluster_weights()]
        return np.concatenate(parts)

    def _cluster_weights(self) -> Iterator[Floats]:
        generator = np.random.default_rng(self.seed)
        # Sized by rows, the larger of the two, so that both kinds of weights come in the same chunks.
        chunk = max(1, _CHUNK_CELLS // max(1, len(self.index)))
        done = 0
        while done < self.resamples:
            size = min(chunk, self.resamples - done)
            drawn = generator.integers(0, self.count, size=(size, self.count))
            drawn += self.count * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * self.count)
            yield counts.reshape(size, self.count).astype(np.float64)
            done += size


def wilson(k: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a rate."""
    if n == 0:
        return 0.0, 1.0
    share, spread = k / n, _Z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate_by_prompt(flags: Mask, clusters: Clusters) -> Estimate | None:
    """Share of flagged rows with an interval by prompt; None without rows.

    Wilson's interval where every row is a prompt of its own, and, counted over prompts, where all rows agree:
    resampling would claim certainty there.
    """
    if len(flags) == 0:
        return None
    value = float(flags.mean())
    if clusters.singletons or value in (0.0, 1.0):
        lower, upper = wilson(value * clusters.count, clusters.count)
        return Estimate(value, lower, upper, "wilson", len(flags), clusters.count)
    return _estimate(value, clusters.means(flags.astype(np.float64)), clusters)


def exact_rate(flags: Mask, groups: Groups) -> Estimate | None:
    """Share of flagged rows with the Clopper-Pearson interval, as if rows were independent; None without."""
    if len(flags) == 0:
        return None
    interval = clopper_pearson(int(flags.sum()), len(flags), _CONFIDENCE)
    prompts = len(np.unique(np.asarray(groups)))
    return Estimate(
        float(flags.mean()), interval.lower, interval.upper, "clopper-pearson", len(flags), prompts
    )


def curve_statistic(
    statistics: Sequence[Callable[[Roc], Floats]], scores: Floats, harmful: Mask, clusters: Clusters
) -> Floats:
    """Bootstrap distributions [S, resamples] of functions of the ROC curve."""
    parts = []
    for weights in clusters.row_weights():
        roc = weighted_roc(scores, harmful, weights)
        parts.append(np.stack([statistic(roc) for statistic in statistics]))
    return np.concatenate(parts, axis=1)


def estimate_curves(
    statistics: Sequence[Callable[[Roc], Floats]],
    scores: Floats,
    harmful: Mask,
    clusters: Clusters,
    drawn: Floats | None = None,
) -> list[Estimate | None]:
    """Functions of the ROC curve with intervals by prompt; all None without both classes.

    `drawn` [S, resamples] spares the resampling where `curve_statistic` has been called before.
    """
    if harmful.all() or not harmful.any():
        return [None for _ in statistics]
    roc = weighted_roc(scores, harmful, np.ones((1, len(scores))))
    if drawn is None:
        drawn = curve_statistic(statistics, scores, harmful, clusters)
    return [
        _estimate(float(statistic(roc)[0]), row, clusters)
        for statistic, row in zip(statistics, drawn, strict=True)
    ]


def _estimate(value: float, drawn: Floats, clusters: Clusters) -> Estimate:
    return Estimate(value, *percentiles(drawn), "cluster-bootstrap", len(clusters.index), clusters.count)


def percentiles(drawn: Floats) -> tuple[float | None, float | None]:
    """The 2.5th and 97.5th percentile of the resamples in which the statistic exists."""
    defined = drawn[np.isfinite(drawn)]
    if len(defined) == 0:
        return None, None
    lower, upper = np.percentile(defined, [2.5, 97.5])
    return float(lower), float(upper)
