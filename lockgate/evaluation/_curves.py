"""Ranking metrics, written once for weighted rows: a bootstrap resample is a set of weights.

Every function takes scores [N], harmful [N] (bool) and, for resamples, weights [B, N]. Higher scores mean
harmful; tied scores stand or fall together.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Roc(NamedTuple):
    """Steps of a ROC curve by falling threshold, from (0, 0) to (1, 1); arrays [B, steps]."""

    fpr: Floats
    tpr: Floats


def weighted_roc(scores: Floats, harmful: Mask, weights: Floats) -> Roc:
    """ROC curves of B weightings of the same rows; a weighting without one of the classes gives NaN."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    harm = harmful[order]
    sorted_weights = weights[:, order]
    positive, negative = sorted_weights * harm, sorted_weights * ~harm
    if len(starts) < len(scores):
        positive = np.add.reduceat(positive, starts, axis=1)
        negative = np.add.reduceat(negative, starts, axis=1)
    return Roc(_cumulative_share(negative), _cumulative_share(positive))


def area(roc: Roc) -> Floats:
    """Area under each curve [B]; a tie counts one half."""
    steps = np.diff(roc.fpr, axis=1)
    return np.asarray((steps * (roc.tpr[:, 1:] + roc.tpr[:, :-1]) / 2).sum(axis=1))


def log_area(roc: Roc, lowest: float = 1e-3, highest: float = 1e-1) -> Floats:
    """Mean TPR [B] over log-uniform FPR in [lowest, highest], from 0 to 1 (CC dossier: log-FPR AUROC).

    Between two reachable FPRs the lower one's TPR holds: no credit for randomised thresholds.
    """
    # The last step needs no width: the curve ends at FPR 1, beyond `highest`.
    edges = np.log(np.clip(roc.fpr, lowest, highest))
    return np.asarray((np.diff(edges, axis=1) * roc.tpr[:, :-1]).sum(axis=1) / np.log(highest / lowest))


def auroc(scores: Floats, harmful: Mask) -> float:
    """Probability that a harmful row scores above a harmless one, ties one half; NaN without both classes."""
    return float(area(weighted_roc(scores, harmful, np.ones((1, len(scores)))))[0])


def log_auroc(scores: Floats, harmful: Mask) -> float:
    """`log_area` of the unweighted rows, FPR 0.001 to 0.1."""
    return float(log_area(weighted_roc(scores, harmful, np.ones((1, len(scores)))))[0])


def tpr_on_grid(scores: Floats, harmful: Mask, grid: Floats) -> Floats:
    """TPR reachable at FPR no larger than each point of a rising `grid` [G]."""
    roc = weighted_roc(scores, harmful, np.ones((1, len(scores))))
    # The slack forgives the rounding of k/n against a grid point such as 0.001.
    steps = np.searchsorted(roc.fpr[0], grid * (1 + 1e-9), side="right") - 1
    return np.asarray(roc.tpr[0][steps])


def _cumulative_share(weights: Floats) -> Floats:
    shares = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=shares[:, 1:])
    whole = shares[:, -1:].copy()
    shares /= np.where(whole > 0, whole, np.nan)
    return shares
