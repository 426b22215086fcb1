"""Smoothing and losses over the tokens of several exchanges, padded to one length.

Position t of a row holds what is known after the exchange's t-th scored token; everything is causal, so what
stands behind an exchange's end is never seen. Losses look at `valid` positions only: those with a whole
window behind them, or the last one of an exchange that is shorter (CC++ section 5).
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
    """How the smoothed logits of an exchange become one loss.

    `softmax`, `mean` and `max` are those of `window_loss`. `cummax` judges each position by the highest
    logit so far; `annealed` goes over to it from the position's own, as probabilities, while training
    proceeds (CC v1). `topk` judges the mean of the `top` highest logits (SC-TopK).

    Attributes:
        tau: temperature of `softmax`.
        variance: weight of `spread_penalty` at temperature `variance_tau`, for harmless exchanges.
    """

    kind: SequenceLossName = "softmax"
    tau: float = 1.0
    top: int = 8
    variance: float = 0.0
    variance_tau: float = 2.0

    def __call__(self, logits: Tensor, valid: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Loss of each exchange, `[n]`.

        Args:
            logits: `[n, tokens]`, smoothed.
            valid: `[n, tokens]`, at least one position of each exchange.
            targets: `[n]`, labels from 0 to 1.
            progress: share of the training that is behind.
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
    """`[n, tokens]`: positions with a whole window behind them; the last one of a shorter exchange."""
    position = torch.arange(tokens, device=lengths.device)
    last = lengths.unsqueeze(1) - 1
    return (position <= last) & ((position >= window - 1) | (position == last))


def sliding_mean(logits: Tensor, window: int) -> Tensor:
    """Mean of the last `window` logits at each position of `[n, tokens]`, of fewer at the start."""
    if window == 1:
        return logits
    sums = avg_pool1d(pad(logits, (window - 1, 0)).unsqueeze(1), window, stride=1).squeeze(1) * window
    counts = torch.arange(1, logits.shape[1] + 1, device=logits.device).clamp(max=window)
    return sums / counts


def rolling_attention(values: Tensor, queries: Tensor, window: int) -> Tensor:
    """Mean of the last `window` values at each position, weighed by exp(query); both `[n, tokens]`."""
    weights = pad(queries, (window - 1, 0), value=float("-inf")).unfold(1, window, 1).softmax(-1)
    return (weights * pad(values, (window - 1, 0)).unfold(1, window, 1)).sum(-1)


def top_mean(logits: Tensor, valid: Tensor, top: int) -> Tensor:
    """Mean of the `top` highest valid logits of each row (of all, if there are fewer), `[n]`."""
    highest = logits.masked_fill(~valid, float("-inf")).topk(min(top, logits.shape[1]), dim=1).values
    kept = highest.isfinite()
    return highest.masked_fill(~kept, 0.0).sum(1) / kept.sum(1)


def spread_penalty(logits: Tensor, valid: Tensor, tau: float) -> Tensor:
    """Variance of the valid logits of each row, each weighed by exp(z / tau), `[n]`.

    Zero where all are alike: an isolated spike in a harmless exchange costs, a level does not. The weighing
    is our reading of the published name and constants of SC-TopK's penalty.
    """
    weights = (logits / tau).masked_fill(~valid, float("-inf")).softmax(1)
    mean = (weights * logits).sum(1, keepdim=True)
    return (weights * (logits - mean) ** 2).sum(1)
