"""Smoothing and losses over the tokens of several exchanges, padded to one length.

Position t of a row belongs to the exchange's t-th scored token. Everything is causal, so the padding after an
exchange's end has no effect. Losses use only `valid` positions: those with a whole window behind them, or the last
position of a shorter exchange (CC++ section 5).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, binary_cross_entropy_with_logits, pad

from lockgate.training import LossName, annealed_share, peak_loss, window_loss

SequenceLossName = Literal["softmax", "mean", "max", "cummax", "annealed", "topk"]

__all__ = [
    "SequenceLoss",
    "SequenceLossName",
    "rolling_attention",
    "sliding_mean",
    "spread_penalty",
    "top_mean",
    "valid_positions",
]


@dataclass(frozen=True, slots=True)
class SequenceLoss:
    """Turns the smoothed logits of an exchange into one loss.

    Attributes:
        kind: `softmax`, `mean` and `max` are the same as in `window_loss`. `cummax` judges each position by the highest
            logit so far. `annealed` starts with the position's own logit and moves to the highest one, as probabilities,
            during the training (CC v1). `topk` judges the mean of the `top` highest logits (SC-TopK).
        tau: temperature of `softmax`.
        variance: weight of `spread_penalty` at temperature `variance_tau`, for harmless exchanges.
    """

    kind: SequenceLossName = "softmax"
    tau: float = 1.0
    top: int = 8
    variance: float = 0.0
    variance_tau: float = 2.0

    def __call__(self, logits: Tensor, valid: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Return the loss of each exchange, `[n]`.

        Args:
            logits: `[n, tokens]`, smoothed.
            valid: `[n, tokens]`, at least one position of each exchange.
            targets: `[n]`, labels from 0 to 1.
            progress: finished share of the training.
        """
        loss = self._main(logits, valid, targets, progress)
        if self.variance > 0:
            spread = spread_penalty(logits, valid, self.variance_tau)
            loss = loss + self.variance * (1 - targets) * spread
        return loss

    def _main(self, logits: Tensor, valid: Tensor, targets: Tensor, progress: float) -> Tensor:
        if self.kind == "topk":
            return binary_cross_entropy_with_logits(
                top_mean(logits, valid, self.top), targets, reduction="none"
            )
        if self.kind == "cummax" or self.kind == "annealed":
            share = 1.0 if self.kind == "cummax" else annealed_share(progress)
            return peak_loss(logits, valid, targets, share)
        owners = valid.nonzero()[:, 0]
        kind: LossName = self.kind
        packed = logits[valid].unsqueeze(1)
        return window_loss(packed, targets, owners, len(targets), kind=kind, tau=self.tau)[:, 0]


def valid_positions(lengths: Tensor, tokens: int, window: int) -> Tensor:
    """Return `[n, tokens]`: positions with a whole window behind them, or the last position of a shorter exchange."""
    position = torch.arange(tokens, device=lengths.device)
    last = lengths.unsqueeze(1) - 1
    return (position <= last) & ((position >= window - 1) | (position == last))


def sliding_mean(logits: Tensor, window: int) -> Tensor:
    """Return the mean of the last `window` logits at each position of `[n, tokens]`; of fewer at the start."""
    if window == 1:
        return logits
    sums = avg_pool1d(pad(logits, (window - 1, 0)).unsqueeze(1), window, stride=1).squeeze(1) * window
    counts = torch.arange(1, logits.shape[1] + 1, device=logits.device).clamp(max=window)
    return sums / counts


def rolling_attention(values: Tensor, queries: Tensor, window: int) -> Tensor:
    """Return the mean of the last `window` values at each position, weighted by exp(query). Both are `[n, tokens]`."""
    weights = pad(queries, (window - 1, 0), value=float("-inf")).unfold(1, window, 1).softmax(-1)
    return (weights * pad(values, (window - 1, 0)).unfold(1, window, 1)).sum(-1)


def top_mean(logits: Tensor, valid: Tensor, top: int) -> Tensor:
    """Return the mean of each row's `top` highest valid logits, or of all if there are fewer, `[n]`."""
    highest = logits.masked_fill(~valid, float("-inf")).topk(min(top, logits.shape[1]), dim=1).values
    kept = highest.isfinite()
    return highest.masked_fill(~kept, 0.0).sum(1) / kept.sum(1)


def spread_penalty(logits: Tensor, valid: Tensor, tau: float) -> Tensor:
    """Return the variance of each row's valid logits, weighted by exp(z / tau), `[n]`.

    It is zero if all logits are equal. An isolated spike in a harmless exchange costs; a constant level does not. The
    published method gives only the name and constants of the penalty (SC-TopK); the weighting is our reading of them.
    """
    weights = (logits / tau).masked_fill(~valid, float("-inf")).softmax(1)
    mean = (weights * logits).sum(1, keepdim=True)
    return (weights * (logits - mean) ** 2).sum(1)
