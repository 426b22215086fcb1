"""Losses of an exchange over the windows or tokens that are judged in it."""

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
    """Binary cross-entropy of each exchange over its windows.

    `softmax` weighs each window by exp(z / tau) within its exchange, the gradient flowing through the weights
    too (CC++ section 5: sum of w_t * BCE(y, sigmoid(z_t))); `mean` weighs them alike; `max` keeps the highest
    alone.

    Args:
        logits: `[windows, heads]`, smoothed logits z.
        targets: `[n]`, labels from 0 to 1.
        owners: `[windows]`, index of each window's exchange, each of `0..n-1` at least once.

    Returns:
        `[n, heads]`.
    """
    target = targets[owners].unsqueeze(1).expand_as(logits)
    loss = binary_cross_entropy_with_logits(logits, target, reduction="none")
    weights = _weights(logits, owners, n, kind, tau)
    return loss.new_zeros(n, logits.shape[1]).index_add(0, owners, weights * loss)


def peak_loss(logits: Tensor, valid: Tensor, targets: Tensor, share: float) -> Tensor:
    """Binary cross-entropy of each exchange over its positions, each judged by the highest logit so far.

    Args:
        logits: `[n, tokens]`.
        valid: `[n, tokens]`, the positions that count, at least one of each exchange.
        targets: `[n]`, labels from 0 to 1.
        share: weight of the highest logit's probability; the rest is that of the position's own logit.

    Returns:
        `[n]`.
    """
    owners = valid.nonzero()[:, 0]
    peaks = logits.masked_fill(~valid, float("-inf")).cummax(1).values[valid]
    loss = _mixed_cross_entropy(logits[valid], peaks, targets[owners], share)
    sums = loss.new_zeros(len(targets)).index_add(0, owners, loss)
    return sums / valid.sum(1)


def annealed_share(progress: float) -> float:
    """The share of `peak_loss` that rises from 0 to 1 while training proceeds (CC v1).

    Args:
        progress: share of the training that is behind.
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
    """Cross-entropy of p = (1 - share) * sigmoid(logits) + share * sigmoid(peaks), stable far out."""
    if share >= 1:
        return binary_cross_entropy_with_logits(peaks, targets, reduction="none")
    rest, part = logits.new_tensor([1 - share, share]).log()
    harmful = torch.logaddexp(rest + logsigmoid(logits), part + logsigmoid(peaks))
    harmless = torch.logaddexp(rest + logsigmoid(-logits), part + logsigmoid(-peaks))
    return -(targets * harmful + (1 - targets) * harmless)
