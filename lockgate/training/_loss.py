"""Losses of the probe over the windows of an exchange."""

from typing import Literal

import torch
from torch import Tensor

LossName = Literal["softmax", "mean", "max"]


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
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weights = _weights(logits, owners, n, kind, tau)
    return loss.new_zeros(n, logits.shape[1]).index_add(0, owners, weights * loss)


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
