"""Ranking metrics for weighted rows. A bootstrap resample is a set of weights, so it needs no further code.

Every function takes scores [N], harmful [N] (bool) and, for resamples, weights [B, N]. A higher score means
more harmful. Rows with tied scores are always on the same side of a threshold.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Roc(NamedTuple):
    """Steps of B ROC curves by falling threshold, from (0, 0) to (1, 1). Both arrays are [B, steps]."""

    fpr: Floats
    tpr: Floats


def weighted_roc(scores: Floats, harmful: Mask, weights: Floats) -> Roc:
    """Compute the ROC curves of B weightings of the same rows.

    A curve is NaN where its weighting leaves out one of the two classes.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    harm = harmful[order]
    sorted_weights = weights.take(order, axis=1)
    positive, negative = sorted_weights * harm, sorted_weights * ~harm
    if len(starts) < len(scores):
        positive = np.add.reduceat(positive, starts, axis=1)
        negative = np.add.reduceat(negative, starts, axis=1)
    return Roc(_cumulative_share(negative), _cumulative_share(positive))


def area(roc: Roc) -> Floats:
    """Compute the area under each curve [B]. A tie counts one half."""
    steps = np.diff(roc.fpr, axis=1)
    return np.asarray((steps * (roc.tpr[:, 1:] + roc.tpr[:, :-1]) / 2).sum(axis=1))


def log_area(roc: Roc, lowest: float = 1e-3, highest: float = 1e-1) -> Floats:
    """Compute log-FPR AUROC [B]: the mean TPR over log-uniform FPR in [lowest, highest], from 0 to 1.

    Between two reachable FPRs, the TPR of the lower one counts. So randomised thresholds earn no credit.
    """
    # The last step needs no width: the curve ends at FPR 1, beyond `highest`.
    edges = np.log(np.clip(roc.fpr, lowest, highest))
    return np.asarray((np.diff(edges, axis=1) * roc.tpr[:, :-1]).sum(axis=1) / np.log(highest / lowest))


def auroc(scores: Floats, harmful: Mask) -> float:
    """Compute the probability that a harmful row scores above a harmless one. A tie counts one half.

    The result is NaN unless both classes occur.
    """
    return float(area(weighted_roc(scores, harmful, np.ones((1, len(scores)))))[0])


def log_auroc(scores: Floats, harmful: Mask) -> float:
    """Compute `log_area` of the unweighted rows over FPR 0.001 to 0.1."""
    return float(log_area(weighted_roc(scores, harmful, np.ones((1, len(scores)))))[0])


def tpr_on_grid(scores: Floats, harmful: Mask, grid: Floats) -> Floats:
    """Compute the highest TPR [G] with an FPR no larger than each point of a rising `grid` [G]."""
    roc = weighted_roc(scores, harmful, np.ones((1, len(scores))))
    # The slack absorbs the rounding of k/n, which is compared with grid points such as 0.001.
    steps = np.searchsorted(roc.fpr[0], grid * (1 + 1e-9), side="right") - 1
    return np.asarray(roc.tpr[0][steps])


def _cumulative_share(weights: Floats) -> Floats:
    shares = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=shares[:, 1:])
    whole = shares[:, -1:].copy()
    shares /= np.where(whole > 0, whole, np.nan)
    return shares
