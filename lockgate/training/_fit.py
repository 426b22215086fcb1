"""Fit probes on cached windows. Many variants are fitted together, on the same batches."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockgate.classifiers import ProbeHead
from lockgate.errors import TrainingError
from lockgate.training._checkpoint import restore_checkpoint, save_checkpoint
from lockgate.training._loss import LossName, window_loss
from lockgate.training._windows import CachedExchange, WindowCache

_STD_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """Settings of one variant of the probe.

    AdamW fits it on standardised activations.

    Attributes:
        name: name in results.
        layers: layers to read, from 0. All must be in the cache.
        loss: weights of an exchange's windows, see `window_loss`.
        tau: temperature of the softmax weights.
        regions: `all` windows, or only those that end in the `answer`.
        epochs: passes over the data.
        batch: exchanges in one batch.
        lr: highest learning rate. It falls along a cosine.
        weight_decay: AdamW's weight decay.
        gamma: weight of the newest logit in the moving average when the probe is served. 2 / (16 + 1) gives
            the variance of the training window.
        seed: seed of the order of exchanges.
    """

    name: str
    layers: tuple[int, ...]
    loss: LossName = "softmax"
    tau: float = 1.0
    regions: Literal["all", "answer"] = "all"
    epochs: int = 20
    batch: int = 64
    lr: float = 3e-4
    weight_decay: float = 1.0
    gamma: float = 2 / 17
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Windows of some exchanges, `[windows, layers, hidden]` float32, with their labels and weights."""

    windows: Tensor
    owners: Tensor
    targets: Tensor
    categories: Tensor
    in_answer: Tensor
    importance: Tensor


def fit_probes(
    cache: WindowCache,
    exchanges: Sequence[CachedExchange],
    configs: Sequence[ProbeConfig],
    *,
    category_ids: Sequence[str] = (),
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[ProbeHead]:
    """Fit one head for each config.

    All configs need the same epochs, batch and seed, so that they see the same batches. Harmful and harmless
    exchanges have the same total weight.

    Args:
        cache: cache with the windows.
        exchanges: exchanges of the cache to learn from.
        configs: settings of the heads.
        category_ids: categories that get a logit of their own.
        checkpoint: file that keeps the state after each epoch. A later call with the same data and configs
            resumes from it.
        report: function that receives a line about each epoch.

    Returns:
        The heads, in the order of `configs`.

    Raises:
        TrainingError: all exchanges have the same label, or the configs do not fit the cache or each other.
    """
    labels = np.array([exchange.label for exchange in exchanges])
    if not len(labels) or labels.max() < 0.5 or labels.min() >= 0.5:
        raise TrainingError("training needs exchanges of both labels; found only one")
    if not configs or any(not config.layers for config in configs):
        raise TrainingError("expected at least one probe, and at least one layer for each")
    if len({(c.epochs, c.batch, c.seed) for c in configs}) != 1:
        raise TrainingError("probes that are fitted together need the same epochs, batch and seed")
    run = _Run(cache, exchanges, configs, tuple(category_ids))
    first = run.restore(checkpoint) if checkpoint else 0
    for epoch in range(first, configs[0].epochs):
        losses = run.epoch(epoch)
        report(f"epoch {epoch + 1}/{configs[0].epochs} " + " ".join(f"{value:.4f}" for value in losses))
        if checkpoint:
            run.save(checkpoint, epoch + 1)
    return run.heads()


class _Run:
    """State of one fit: parameters in standardised space, optimiser, data order."""

    def __init__(
        self,
        cache: WindowCache,
        exchanges: Sequence[CachedExchange],
        configs: Sequence[ProbeConfig],
        category_ids: tuple[str, ...],
    ) -> None:
        self.cache, self.exchanges, self.configs, self.category_ids = cache, exchanges, configs, category_ids
        self.cached_layers: list[int] = cache.meta["layers"]
        for config in configs:
            if missing := set(config.layers) - set(self.cached_layers):
                raise TrainingError(f"probe {config.name}: layers {sorted(missing)} are not in the cache")
        self.mean, self.std = _standardisation(cache, exchanges)
        outputs, hidden = 1 + len(category_ids), self.mean.shape[1]
        self.columns = [[self.cached_layers.index(layer) for layer in config.layers] for config in configs]
        self.weights = [torch.zeros(outputs, len(c), hidden, requires_grad=True) for c in self.columns]
        self.biases = [torch.zeros(outputs, requires_grad=True) for _ in configs]
        self.parameters = [*self.weights, *self.biases]
        groups = [
            {"params": [weight], "lr": config.lr, "weight_decay": config.weight_decay}
            for weight, config in zip(self.weights, configs, strict=True)
        ]
        groups += [{"params": [bias], "lr": 1e-2, "weight_decay": 0.0} for bias in self.biases]
        self.optimiser = torch.optim.AdamW(groups)
        labels = np.array([exchange.label for exchange in exchanges])
        self.positive_weight = float(len(labels) / (2 * (labels >= 0.5).sum()))
        self.negative_weight = float(len(labels) / (2 * (labels < 0.5).sum()))

    def epoch(self, number: int) -> list[float]:
        """Make one pass over the data and return the mean loss of each config."""
        config = self.configs[0]
        order = np.random.default_rng([config.seed, number]).permutation(len(self.exchanges))
        steps = -(-len(order) // config.batch)
        totals = np.zeros(len(self.configs))
        for step in range(steps):
            progress = (number * steps + step) / (config.epochs * steps)
            for group, base in zip(self.optimiser.param_groups, self._learning_rates(), strict=True):
                group["lr"] = base * 0.5 * (1 + np.cos(np.pi * progress))
            chosen = [self.exchanges[i] for i in order[step * config.batch : (step + 1) * config.batch]]
            batch = self._batch(chosen)
            losses = torch.stack([self._loss(index, batch) for index in range(len(self.configs))])
            self.optimiser.zero_grad()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            totals += losses.detach().numpy() * len(chosen)
        return [float(value) for value in totals / len(order)]

    def heads(self) -> list[ProbeHead]:
        """Return the heads, with weights for raw activations."""
        made = []
        for config, columns, weight, bias in zip(
            self.configs, self.columns, self.weights, self.biases, strict=True
        ):
            folded, shifted = fold_standardisation(weight, bias, self.mean[columns], self.std[columns])
            made.append(
                ProbeHead(
                    layers=config.layers,
                    site=self.cache.meta["site"],
                    weights=folded,
                    bias=shifted,
                    gamma=config.gamma,
                    category_ids=self.category_ids,
                )
            )
        return made

    def _learning_rates(self) -> list[float]:
        return [config.lr for config in self.configs] + [1e-2] * len(self.configs)

    def _batch(self, chosen: Sequence[CachedExchange]) -> TrainingBatch:
        parts = [np.asarray(self.cache.windows(exchange)) for exchange in chosen]
        windows = torch.from_numpy(np.concatenate(parts)).float()
        windows = (windows - self.mean.float()) / self.std.float()
        owners = torch.repeat_interleave(
            torch.arange(len(chosen)), torch.tensor([len(part) for part in parts])
        )
        in_answer = torch.cat(
            [torch.arange(len(p)) >= e.first_answer_window for p, e in zip(parts, chosen, strict=True)]
        )
        targets = torch.tensor([exchange.label for exchange in chosen], dtype=torch.float32)
        importance = torch.where(targets >= 0.5, self.positive_weight, self.negative_weight)
        return TrainingBatch(windows, owners, targets, self._categories(chosen), in_answer, importance)

    def _categories(self, chosen: Sequence[CachedExchange]) -> Tensor:
        """One-hot targets `[exchanges, categories]`; NaN where a harmful exchange names no known category."""
        targets = torch.zeros(len(chosen), len(self.category_ids))
        for row, exchange in enumerate(chosen):
            if exchange.label >= 0.5:
                known = exchange.category in self.category_ids
                targets[row] = 0.0 if known else float("nan")
                if known:
                    targets[row, self.category_ids.index(str(exchange.category))] = 1.0
        return targets

    def _loss(self, index: int, batch: TrainingBatch) -> Tensor:
        config, columns = self.configs[index], self.columns[index]
        everything = columns == list(range(len(self.cached_layers)))
        windows = batch.windows if everything else batch.windows[:, columns]
        logits = windows.flatten(1) @ self.weights[index].flatten(1).T + self.biases[index]
        owners = batch.owners
        if config.regions == "answer":
            logits, owners = logits[batch.in_answer], owners[batch.in_answer]
        n = len(batch.targets)
        per_exchange = window_loss(logits[:, :1], batch.targets, owners, n, kind=config.loss, tau=config.tau)
        loss = (per_exchange[:, 0] * batch.importance).mean()
        if self.category_ids:
            loss = loss + self._category_loss(logits[:, 1:], batch.categories, owners)
        return loss

    def _category_loss(self, logits: Tensor, targets: Tensor, owners: Tensor) -> Tensor:
        """Mean loss of the category heads over exchanges with a known category."""
        spread = targets[owners]
        known = ~spread.isnan()
        if not known.any():
            # A mean over nothing is NaN. It would make every weight NaN.
            return logits.sum() * 0.0
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[known], spread[known])

    def save(self, path: Path, epochs_done: int) -> None:
        """Write a checkpoint."""
        save_checkpoint(path, self.parameters, self.optimiser, run=self._key(), done=epochs_done)

    def restore(self, path: Path) -> int:
        """Read a checkpoint and return the number of finished epochs.

        It is 0 if the file is missing, damaged or belongs to another run.
        """
        return restore_checkpoint(path, self.parameters, self.optimiser, run=self._key())

    def _key(self) -> str:
        rows = [(row.id, row.label, row.category) for row in self.exchanges]
        content = [[asdict(config) for config in self.configs], rows]
        return hashlib.sha256(json.dumps([*content, self.category_ids, self.cache.meta]).encode()).hexdigest()


def fold_standardisation(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Turn weights for standardised activations into weights for raw activations.

    w' = w / std and b' = b - sum(w' * mean).

    Args:
        weight: `[outputs, layers, hidden]`.
        bias: `[outputs]`.
        mean: `[layers, hidden]`, float64.
        std: `[layers, hidden]`, float64.

    Returns:
        The new weights and bias, in the same shapes, float32.
    """
    folded = weight.detach().double() / std
    return folded.float(), (bias.detach().double() - (folded * mean).sum((1, 2))).float()


def mean_and_std(
    count: int, total: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation from sums.

    Args:
        count: number of rows.
        total: sum of the rows.
        squares: sum of the squared rows.

    Returns:
        The mean, and the standard deviation plus a small constant that keeps it away from zero.
    """
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0)) + _STD_FLOOR
    return torch.from_numpy(np.asarray(mean)), torch.from_numpy(np.asarray(std))


def _standardisation(cache: WindowCache, exchanges: Sequence[CachedExchange]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension over the windows, `[layers, hidden]`, float64."""
    count = 0
    total, squares = np.zeros(()), np.zeros(())
    for exchange in exchanges:
        windows = np.asarray(cache.windows(exchange), dtype=np.float64)
        count += len(windows)
        total = total + windows.sum(0)
        squares = squares + (windows**2).sum(0)
    return mean_and_std(count, total, squares)
