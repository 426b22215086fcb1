"""Intervals by prompt: rows of one prompt are always resampled together."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import clopper_pearson
from lockgate.evaluation._curves import Floats, Mask, Roc, weighted_roc

RESAMPLES = 2000
# The prompt of each row [N].
Groups = Sequence[str] | NDArray[np.intp] | NDArray[np.str_]

_CONFIDENCE = 0.95
_Z = 1.959963984540054
_CHUNK_CELLS = 2_000_000
# Row weights pass through many steps. Chunks that fit a core's cache take half the time.
_ROW_CHUNK_CELLS = 200_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: the figure.
        lower, upper: the interval; None where none can be computed.
        method: how the interval was computed: wilson, clopper-pearson or cluster-bootstrap.
        n, n_prompts: numbers of rows and distinct prompts behind the figure.
    """

    value: float
    lower: float | None
    upper: float | None
    method: str
    n: int
    n_prompts: int


class Clusters:
    """A set of rows grouped by prompt, for a bootstrap that draws prompts with replacement."""

    def __init__(self, groups: Groups, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """Group N rows by `groups` [N], the prompt of each row."""
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        self.index: NDArray[np.intp] = index.reshape(-1)
        self.count = int(self.index.max()) + 1 if len(self.index) else 0
        self.singletons = self.count == len(self.index)
        self.resamples = resamples
        self.seed = seed

    def row_weights(self) -> Iterator[Floats]:
        """Yield row weights [b, N] in chunks, `resamples` rows in all. Every call gives the same weights."""
        for weights in self._cluster_weights(_ROW_CHUNK_CELLS):
            yield weights.take(self.index, axis=1)

    def means(self, values: Floats) -> Floats:
        """Return the bootstrap distribution [resamples] of the mean of `values` [N]."""
        sums = np.bincount(self.index, weights=values, minlength=self.count)
        sizes = np.bincount(self.index, minlength=self.count)
        parts = [(weights @ sums) / (weights @ sizes) for weights in self._cluster_weights()]
        return np.concatenate(parts)

    def _cluster_weights(self, cells: int = _CHUNK_CELLS) -> Iterator[Floats]:
        generator = np.random.default_rng(self.seed)
        # The number of rows sets the chunk size: row weights take more space than cluster weights.
        chunk = max(1, cells // max(1, len(self.index)))
        done = 0
        while done < self.resamples:
            size = min(chunk, self.resamples - done)
            drawn = generator.integers(0, self.count, size=(size, self.count))
            drawn += self.count * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * self.count)
            yield counts.reshape(size, self.count).astype(np.float64)
            done += size


def wilson(k: float, n: float) -> tuple[float, float]:
    """Compute Wilson's 95 % score interval of the rate `k` / `n`. Without trials it is [0, 1]."""
    if n == 0:
        return 0.0, 1.0
    share, spread = k / n, _Z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate_by_prompt(flags: Mask, clusters: Clusters) -> Estimate | None:
    """Compute the share of flagged rows with an interval by prompt. Return None without rows.

    The interval is a bootstrap over prompts, with two exceptions that use Wilson's interval over the number
    of prompts: every row has its own prompt, or all rows agree. Where all rows agree, a bootstrap interval
    would have no width.
    """
    if len(flags) == 0:
        return None
    value = float(flags.mean())
    if clusters.singletons or value in (0.0, 1.0):
        lower, upper = wilson(value * clusters.count, clusters.count)
        return Estimate(value, lower, upper, "wilson", len(flags), clusters.count)
    return _estimate(value, clusters.means(flags.astype(np.float64)), clusters)


def exact_rate(flags: Mask, groups: Groups) -> Estimate | None:
    """Compute the share of flagged rows with a Clopper-Pearson interval. Return None without rows.

    The interval takes rows as independent. `groups` [N], the prompt of each row, only counts prompts.
    """
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
    """Return the bootstrap distributions [S, resamples] of S functions of the ROC curve."""
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
    """Compute S functions of the ROC curve with intervals by prompt. All are None unless both classes occur.

    `drawn` [S, resamples] is the result of `curve_statistic`; passing it avoids a second resampling.
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
    """Return the 2.5th and 97.5th percentile of the resamples with a finite value, or None twice."""
    defined = drawn[np.isfinite(drawn)]
    if len(defined) == 0:
        return None, None
    lower, upper = np.percentile(defined, [2.5, 97.5])
    return float(lower), float(upper)
