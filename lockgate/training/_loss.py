"""Losses of an exchange over its windows or tokens."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

LossName = Literal["softmax", "mean", "max"]

# The cumulative maximum takes over at three quarters of the training (CC v1).
_ANNEALED = 0.75


def window_loss(
    logits: Tensor, targets: Tensor, owners: Tensor, n: int, *, kind: LossName, tau: float = 1.0
) -> Tensor:
    """Compute the binary cross-entropy of each exchange: the weighted sum over its windows.

    Args:
        logits: `[windows, heads]`, smoothed logits z.
        targets: `[n]`, labels from 0 to 1.
        owners: `[windows]`, index of each window's exchange. Each of `0..n-1` appears at least once.
        n: number of exchanges.
        kind: weights of an exchange's windows. `softmax` weighs them by exp(z / tau), and the gradient also
            flows through the weights (CC++ section 5: sum of w_t * BCE(y, sigmoid(z_t))). `mean` gives all
            windows the same weight. `max` uses only the highest window.
        tau: temperature of `softmax`.

    Returns:
        `[n, heads]`.
    """
    target = targets[owners].unsqueeze(1).expand_as(logits)
    loss = binary_cross_entropy_with_logits(logits, target, reduction="none")
    weights = _weights(logits, owners, n, kind, tau)
    return loss.new_zeros(n, logits.shape[1]).index_add(0, owners, weights * loss)


def peak_loss(logits: Tensor, valid: Tensor, targets: Tensor, share: float) -> Tensor:
    """Compute the binary cross-entropy of each exchange: the mean over its positions.

    The probability at a position mixes the highest logit so far with the position's own logit.

    Args:
        logits: `[n, tokens]`.
        valid: `[n, tokens]`, positions that count, at least one for each exchange.
        targets: `[n]`, labels from 0 to 1.
        share: weight of the highest logit's probability, from 0 to 1. The position's own logit has the rest.

    Returns:
        `[n]`.
    """
    owners = valid.nonzero()[:, 0]
    peaks = logits.masked_fill(~valid, float("-inf")).cummax(1).values[valid]
    loss = _mixed_cross_entropy(logits[valid], peaks, targets[owners], share)
    sums = loss.new_zeros(len(targets)).index_add(0, owners, loss)
    return sums / valid.sum(1)


def annealed_share(progress: float) -> float:
    """Return the `share` for `peak_loss`. It rises from 0 to 1 during the training (CC v1).

    Args:
        progress: finished share of the training, from 0 to 1.
    """
    return min(1.0, progress / _ANNEALED)


def _weights(logits: Tensor, owners: Tensor, n: int, kind: LossName, tau: float) -> Tensor:
    if kind == "mean":
        counts = torch.bincount(owners, minlength=n).to(logits.dtype)
        return (1.0 / counts)[owners].unsqueeze(1).expand_as(logits)
    index = owners.unsqueeze(1).expand_as(logits)
    start = logits.new_full((n, logits.shape[1]), float("-inf"))
    peaks = start.scatter_reduce(0, index, logits.detach(), "amax")
    if kind == "max":
        chosen = (logits.detach() == peaks[owners]).to(logits.dtype)
        share: Tensor = logits.new_zeros(n, logits.shape[1]).index_add(0, owners, chosen)
        return chosen / share[owners]
    raised = torch.exp((logits - peaks[owners]) / tau)
    totals = raised.new_zeros(n, logits.shape[1]).index_add(0, owners, raised)
    return raised / totals[owners]


def _mixed_cross_entropy(logits: Tensor, peaks: Tensor, targets: Tensor, share: float) -> Tensor:
    """Cross-entropy of p = (1 - share) * sigmoid(logits) + share * sigmoid(peaks), numerically stable."""
    if share >= 1:
        return binary_cross_entropy_with_logits(peaks, targets, reduction="none")
    rest, part = logits.new_tensor([1 - share, share]).log()
    harmful = torch.logaddexp(rest + logsigmoid(logits), part + logsigmoid(peaks))
    harmless = torch.logaddexp(rest + logsigmoid(-logits), part + logsigmoid(-peaks))
    return -(targets * harmful + (1 - targets) * harmless)
