"""Probe variants that need single tokens. They are trained on the fly: one pass over fresh activations feeds all."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lockgate.backbones import Backbone, Site
from lockgate.classifiers import ProbeHead
from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange
from lockgate.training import (
    fold_standardisation,
    restore_checkpoint,
    save_checkpoint,
)
from recipes.embedded_guard.fresh_passes import (
    PlannedExchange,
    plan_batches,
    read_batches,
    standardisation_of,
)
from recipes.embedded_guard.sequences import SequenceLoss, rolling_attention, sliding_mean, valid_positions

__all__ = ["PassConfig", "Pooling", "VariantConfig", "train_on_the_fly"]

Pooling = Literal["mean", "attention"]


@dataclass(frozen=True, slots=True)
class VariantConfig:
    """Settings of one variant of the probe, trained token by token.

    Attributes:
        name: name in results.
        layers: layers read at `site`, from 0.
        window: number of pooled tokens, M. 1 does not smooth.
        pooling: `mean` averages the logits of the window and is served as a moving average. `attention` weighs them by a
            second linear map and is served as it is (rolling-max attention).
        loss: loss of an exchange's pooled logits.
        lr: AdamW's learning rate, on standardised activations.
        weight_decay: AdamW's weight decay.
    """

    name: str
    layers: tuple[int, ...]
    site: Site = "residual"
    window: int = 16
    pooling: Pooling = "mean"
    loss: SequenceLoss = field(default_factory=SequenceLoss)
    lr: float = 3e-4
    weight_decay: float = 1.0

    @property
    def gamma(self) -> float:
        """Weight of the newest logit in the moving average of serving, from the window's variance. 1 does not average."""
        return 1.0 if self.pooling == "attention" else 2 / (self.window + 1)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the head's rows after the first. Row 1 is the query of the attention."""
        return ("query",) if self.pooling == "attention" else ()


@dataclass(frozen=True, slots=True)
class PassConfig:
    """Settings of the one pass over the data that all variants share.

    Attributes:
        tokens: tokens to read, constant prefixes included.
        max_tokens: longer exchanges keep their end.
        batch: exchanges that are read together for one step of the optimiser.
        standardise_on: number of first batches for means and standard deviations. They are read twice.
        keep_every: steps between two checkpoints.
    """

    tokens: int = 600_000
    max_tokens: int = 448
    batch: int = 16
    standardise_on: int = 8
    keep_every: int = 20
    seed: int = 0


def train_on_the_fly(
    backbone: Backbone,
    exchanges: Sequence[Exchange],
    variants: Sequence[VariantConfig],
    config: PassConfig | None = None,
    *,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[ProbeHead]:
    """Train one head for each variant in a single pass. The backbone reads each token once for all of them.

    Harmful and harmless exchanges have the same total weight. Activations may have any precision; heads are float32. With
    `checkpoint`, an interrupted run resumes after its last kept step and ends with the same heads.

    Raises:
        TrainingError: all labels are the same, a label is missing, two variants have one name, or layers are missing.
    """
    config = config or PassConfig()
    if not variants or any(not variant.layers or variant.window < 1 for variant in variants):
        raise TrainingError("expected at least one variant, each with a layer and a window of 1 or more")
    if len({variant.name for variant in variants}) < len(variants):
        raise TrainingError("two variants have the same name; give each its own")
    batches = plan_batches(
        backbone,
        exchanges,
        tokens=config.tokens,
        max_tokens=config.max_tokens,
        batch=config.batch,
        seed=config.seed,
    )
    run = VariantRun(backbone.hidden_size, variants, batches)
    key = _key(backbone, variants, config, batches)
    done = restore_checkpoint(checkpoint, run.parameters, run.optimiser, run=key) if checkpoint else 0
    statistics = standardisation_of(backbone, batches[: config.standardise_on], run.layers)
    for step, hidden in enumerate(read_batches(backbone, batches[done:], run.layers), done):
        for site, (mean, std) in statistics.items():
            hidden[site].sub_(mean.float().unsqueeze(1)).div_(std.float().unsqueeze(1))
        losses = run.step(step, hidden)
        behind = step + 1
        if behind % config.keep_every == 0 or behind == len(batches):
            report(f"step {behind}/{len(batches)} " + " ".join(f"{loss:.4f}" for loss in losses))
            if checkpoint:
                save_checkpoint(checkpoint, run.parameters, run.optimiser, run=key, done=behind)
    return run.heads(statistics)


class VariantRun:
    """The parameters in standardised space, their optimiser, and the steps over planned batches."""

    def __init__(
        self,
        hidden_size: int,
        variants: Sequence[VariantConfig],
        batches: Sequence[Sequence[PlannedExchange]],
    ) -> None:
        labels = np.array([planned.label for batch in batches for planned in batch])
        if labels.max() < 0.5 or labels.min() >= 0.5:
            raise TrainingError("training needs exchanges of both labels; found only one in the tokens read")
        self.variants, self.batches = tuple(variants), batches
        sites = dict.fromkeys(variant.site for variant in variants)
        self.layers: dict[Site, list[int]] = {
            site: sorted({layer for variant in variants if variant.site == site for layer in variant.layers})
            for site in sites
        }
        self.places = [
            torch.tensor([self.layers[variant.site].index(layer) for layer in variant.layers])
            for variant in variants
        ]
        rows = [1 + len(variant.row_names) for variant in variants]
        self.weights = [
            torch.zeros(count, len(variant.layers), hidden_size, requires_grad=True)
            for count, variant in zip(rows, variants, strict=True)
        ]
        self.biases = [torch.zeros(count, requires_grad=True) for count in rows]
        self.parameters = [*self.weights, *self.biases]
        groups = [
            {"params": [weight], "lr": variant.lr, "weight_decay": variant.weight_decay}
            for weight, variant in zip(self.weights, variants, strict=True)
        ]
        groups += [{"params": [bias], "lr": 1e-2, "weight_decay": 0.0} for bias in self.biases]
        # AdamW treats each parameter separately, so one optimiser with a group for each variant equals one for each.
        self.optimiser = torch.optim.AdamW(groups)
        self.rates = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
        self.positive_weight = float(len(labels) / (2 * (labels >= 0.5).sum()))
        self.negative_weight = float(len(labels) / (2 * (labels < 0.5).sum()))

    def step(self, number: int, hidden: dict[Site, Tensor]) -> list[float]:
        """Make one step on batch `number`. Its standardised activations are `[layers, tokens, hidden]` by site.

        Returns:
            The loss of each variant before the step.
        """
        progress = number / len(self.batches)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * progress))
        batch = self.batches[number]
        targets = torch.tensor([planned.label for planned in batch], dtype=torch.float32)
        importance = torch.where(targets >= 0.5, self.positive_weight, self.negative_weight)
        lengths = torch.tensor([planned.scored for planned in batch])
        losses = torch.stack(
            [
                (self._loss(variant, logits, lengths, targets, progress) * importance).mean()
                for variant, logits in zip(self.variants, self.logits(hidden), strict=True)
            ]
        )
        self.optimiser.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return [float(loss) for loss in losses.detach()]

    def logits(self, hidden: dict[Site, Tensor]) -> list[Tensor]:
        """Return the logits of each variant, `[tokens, rows]`. One product per site serves all variants that read it."""
        found: dict[int, Tensor] = {}
        for site, layers in self.layers.items():
            readers = [index for index, variant in enumerate(self.variants) if variant.site == site]
            spread = [
                weight.new_zeros(weight.shape[0], len(layers), weight.shape[2]).index_copy(
                    1, self.places[index], weight
                )
                for index, weight in ((index, self.weights[index]) for index in readers)
            ]
            product = torch.bmm(hidden[site], torch.cat(spread).permute(1, 2, 0)).sum(0)
            parts = torch.split(product, [len(part) for part in spread], dim=1)
            found |= {index: part + self.biases[index] for index, part in zip(readers, parts, strict=True)}
        return [found[index] for index in range(len(self.variants))]

    def heads(self, statistics: dict[Site, tuple[Tensor, Tensor]]) -> list[ProbeHead]:
        """Return the heads, with weights for raw activations."""
        made = []
        for variant, place, weight, bias in zip(
            self.variants, self.places, self.weights, self.biases, strict=True
        ):
            mean, std = (values[place] for values in statistics[variant.site])
            folded, shifted = fold_standardisation(weight, bias, mean, std)
            made.append(
                ProbeHead(variant.layers, variant.site, folded, shifted, variant.gamma, variant.row_names)
            )
        return made

    @staticmethod
    def _loss(
        variant: VariantConfig, logits: Tensor, lengths: Tensor, targets: Tensor, progress: float
    ) -> Tensor:
        """Loss of each exchange, `[n]`, from the logits `[tokens, rows]` of their tokens."""
        padded = pad_sequence(list(torch.split(logits, lengths.tolist())), batch_first=True)
        valid = valid_positions(lengths, padded.shape[1], variant.window)
        if variant.pooling == "attention":
            pooled = rolling_attention(padded[..., 0], padded[..., 1], variant.window)
        else:
            pooled = sliding_mean(padded[..., 0], variant.window)
        return variant.loss(pooled, valid, targets, progress)


def _key(
    backbone: Backbone,
    variants: Sequence[VariantConfig],
    config: PassConfig,
    batches: Sequence[Sequence[PlannedExchange]],
) -> str:
    rows = [(planned.id, planned.label) for batch in batches for planned in batch]
    identity = backbone.identity
    settings = [identity.hashes, identity.dtype, [asdict(variant) for variant in variants], asdict(config)]
    return hashlib.sha256(json.dumps([settings, rows]).encode()).hexdigest()
