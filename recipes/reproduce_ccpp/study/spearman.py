"""Rank correlations of scorers over harmful exchanges (CC++ section 5: combining scorers with the same errors helps little)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lockgate.errors import ExchangeError
from lockgate.evaluation import Clusters, Estimate, Floats, percentiles

__all__ = ["RankCorrelations", "rank_correlations", "weighted_ranks"]


@dataclass(frozen=True, slots=True)
class RankCorrelations:
    """Spearman's rho of every pair. `matrix[i][j]` belongs to `names[i]` and `names[j]`.

    An entry is None if a scorer gives every row the same score.
    """

    names: tuple[str, ...]
    n: int
    n_prompts: int
    matrix: tuple[tuple[Estimate | None, ...], ...]


def rank_correlations(values: Mapping[str, Floats], clusters: Clusters) -> RankCorrelations:
    """Compute Spearman's rho with intervals by prompt. Ties get their mean rank.

    Args:
        values: values [N] by scorer. Minus infinity ranks lowest.

    Raises:
        ExchangeError: a value is NaN, or there are too few rows.
    """
    names = tuple(values)
    for name, own in values.items():
        if np.isnan(own).any():
            raise ExchangeError(
                f"scorer {name} has rows without a score; correlate the rows that all have read"
            )
    n = len(clusters.index)
    if n < 3 or not names:
        raise ExchangeError(f"{n} harmful rows; a rank correlation needs at least three")
    whole = _correlations(values, np.ones((1, n)))[0]
    drawn = np.concatenate([_correlations(values, weights) for weights in clusters.row_weights()])
    matrix = tuple(
        tuple(_entry(whole[i, j], drawn[:, i, j], clusters) for j in range(len(names)))
        for i in range(len(names))
    )
    return RankCorrelations(names, n, clusters.count, matrix)


def weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Return mean ranks [b, N] of `values` [N], where row i counts weights[b, i] times."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(counts, axis=1) - counts / 2 + 0.5
    ranks = np.empty_like(weights)
    ranks[:, order] = np.repeat(middle, np.diff(np.append(starts, len(values))), axis=1)
    return ranks


def _correlations(values: Mapping[str, Floats], weights: Floats) -> Floats:
    """Weighted Pearson correlations [b, S, S] of the mean ranks; NaN if a scorer is constant."""
    total = weights.sum(axis=1, keepdims=True)
    centred = []
    for own in values.values():
        ranks = weighted_ranks(own, weights)
        centred.append(ranks - (weights * ranks).sum(axis=1, keepdims=True) / total)
    stacked = np.stack(centred, axis=1)
    covariance = np.einsum("bin,bjn,bn->bij", stacked, stacked, weights, optimize=True)
    spread = np.sqrt(np.einsum("bii->bi", covariance))
    product = spread[:, :, None] * spread[:, None, :]
    return np.asarray(np.where(product > 0, covariance / np.where(product > 0, product, 1), np.nan))


def _entry(value: float, drawn: Floats, clusters: Clusters) -> Estimate | None:
    if not np.isfinite(value):
        return None
    return Estimate(
        float(value), *percentiles(drawn), "cluster-bootstrap", len(clusters.index), clusters.count
    )
