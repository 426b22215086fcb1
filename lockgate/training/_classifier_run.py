"""One fine-tuning run: low-rank adapters on the top blocks, and verdicts at random cuts. It can be resumed.

The base's weights are never changed. The blocks below the adapted ones need no gradient, so their activations
are not kept. In float32 they share memory with the base.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lockgate._extras import need
from lockgate.backbones import Backbone, TreePart, TreeStep, derive, tree_part
from lockgate.classifiers import (
    ADAPTER_PREFIX,
    VALUE_BIAS,
    VALUE_WEIGHT,
    AdapterShape,
    ExchangeClassifier,
    classifier_record,
    linear_names,
    make_wrapper,
)
from lockgate.constitution import Constitution, hash_constitution
from lockgate.errors import ConfigError
from lockgate.training._checkpoint import restore_checkpoint, save_checkpoint
from lockgate.training._classifier_config import DTYPES, ClassifierConfig
from lockgate.training._classifier_data import Example, Row, hash_examples, make_row, plan_steps
from lockgate.training._loss import annealed_share, peak_loss, window_loss

_HEAD_RATE = 10.0


class ClassifierRun:
    """The state of one run: the model with its adapters, the optimiser and the planned steps."""

    def __init__(
        self,
        base: Backbone,
        examples: Sequence[Example],
        config: ClassifierConfig,
        constitution: Constitution | None = None,
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        shape = adapter_shape(base, config)
        self.base, self.examples, self.config = base, examples, config
        self.constitution, self.selection = constitution, selection
        self.wrapper = make_wrapper(base, config.question, config.words) if config.head == "verdict" else None
        self.suffix = list(self.wrapper.suffix) if self.wrapper else []
        dtype = None if config.dtype == "float32" else DTYPES[config.dtype]
        self.model = derive(base, depth=shape.depth, dtype=dtype)
        self.shape = shape
        self.adapters = _inject(self.model, self.shape, config.seed)
        self.value = (
            [torch.zeros(size, device=base.device) for size in ((base.hidden_size,), ())]
            if config.head == "value"
            else []
        )
        for part in self.value:
            part.requires_grad_()
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(self.adapters.values()), "weight_decay": config.weight_decay, "rate": 1.0},
                *([{"params": self.value, "weight_decay": 0.0, "rate": _HEAD_RATE}] if self.value else []),
            ],
            lr=config.lr,
        )
        share = config.harmful_share or float(np.mean([example.label >= 0.5 for example in examples]))
        self.weights = (0.5 / (1 - share), 0.5 / share)
        self.steps = self._plan()

    def step(self, number: int) -> float:
        """Make one update and return the loss before it."""
        progress = number / len(self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * group["rate"] * _schedule(progress, self.config.warmup)
        loss = self.loss(self.steps[number], progress)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters(), self.config.clip)
        self.optimiser.step()
        return float(loss.detach())

    def loss(self, rows: Sequence[Row], progress: float) -> Tensor:
        """Return the mean loss of a step's rows, balanced between the labels."""
        cuts = [row.cuts if self.wrapper else [] for row in rows]
        ids: list[int] = []
        trees: list[TreePart] = []
        for row, own in zip(rows, cuts, strict=True):
            trees.append(tree_part(len(ids), len(row.ids), own, len(self.suffix)))
            ids += [*row.ids, *self.suffix * len(own)]
        hidden = self.model.forward_trees(ids, TreeStep(trees))
        targets = torch.tensor([row.label for row in rows], device=hidden.device)
        importance = torch.where(targets >= 0.5, self.weights[1], self.weights[0])
        judge = self._verdict_loss if self.wrapper else self._value_loss
        return (judge(hidden, trees, rows, targets, progress) * importance).mean()

    def classifier(self) -> ExchangeClassifier:
        """Return the classifier in its present state."""
        config = self.config
        fields = {
            "name": config.name,
            "reads": config.reads,
            "head": config.head,
            "question": config.question,
            "words": config.words,
            "adapter": self.shape,
            "training": self._record(),
        }
        record = classifier_record(self.base, fields)
        return ExchangeClassifier(self.base, record, self._tensors())

    def tokens_through(self, number: int) -> int:
        """Return the number of conversation tokens in the steps up to `number`, inclusive."""
        return sum(len(row.ids) for row in chain.from_iterable(self.steps[: number + 1]))

    def save(self, path: Path, steps_done: int) -> None:
        """Write a checkpoint. The file is replaced atomically."""
        save_checkpoint(path, self._parameters(), self.optimiser, run=self._key(), done=steps_done)

    def restore(self, path: Path) -> int:
        """Read a checkpoint and return the number of finished steps.

        It is 0 if the file is missing, damaged or belongs to another run.
        """
        return restore_checkpoint(path, self._parameters(), self.optimiser, run=self._key())

    def _verdict_loss(
        self, hidden: Tensor, trees: Sequence[TreePart], rows: Sequence[Row], targets: Tensor, _: float
    ) -> Tensor:
        size = len(self.suffix)
        ends = [
            tree.start + len(row.ids) + (number + 1) * size - 1
            for tree, row in zip(trees, rows, strict=True)
            for number in range(len(row.cuts))
        ]
        owners = torch.tensor([i for i, row in enumerate(rows) for _ in row.cuts], device=hidden.device)
        yes_no = (self.wrapper.yes, self.wrapper.no) if self.wrapper else (0, 0)
        yes, no = self.model.token_logits(hidden[ends], yes_no).unbind(1)
        logits = (yes - no).unsqueeze(1)
        kind, tau = self.config.weighting, self.config.tau
        return window_loss(logits, targets, owners, len(rows), kind=kind, tau=tau)[:, 0]

    def _value_loss(
        self,
        hidden: Tensor,
        trees: Sequence[TreePart],
        rows: Sequence[Row],
        targets: Tensor,
        progress: float,
    ) -> Tensor:
        # The head is asked from the token before the answer on.
        spans = [
            (tree.start + max(0, row.answer_start - 1), tree.end)
            for tree, row in zip(trees, rows, strict=True)
        ]
        parts = [hidden[start:end].float() @ self.value[0] + self.value[1] for start, end in spans]
        logits = pad_sequence(parts, batch_first=True)
        lengths = torch.tensor([len(part) for part in parts], device=hidden.device)
        valid = torch.arange(logits.shape[1], device=hidden.device) < lengths.unsqueeze(1)
        return peak_loss(logits, valid, targets, annealed_share(progress))

    def _plan(self) -> list[list[Row]]:
        config = self.config

        def make(index: int, number: int) -> Row:
            return make_row(
                self.base,
                self.examples[index],
                config.reads,
                max_tokens=config.max_tokens,
                cuts=config.cuts,
                seed=(config.seed, number, index),
            )

        return plan_steps(
            self.examples,
            make,
            suffix=len(self.suffix),
            tokens_per_step=config.tokens_per_step,
            tokens=config.tokens,
            seed=config.seed,
            harmful_share=config.harmful_share,
        )

    def _parameters(self) -> list[Tensor]:
        return list(self._named().values())

    def _named(self) -> dict[str, Tensor]:
        value = dict(zip((VALUE_WEIGHT, VALUE_BIAS), self.value, strict=True)) if self.value else {}
        return {**self.adapters, **value}

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().float().clone() for name, tensor in self._named().items()}

    def _record(self) -> dict[str, Any]:
        harmful = sum(example.label >= 0.5 for example in self.examples)
        config = asdict(self.config)
        policy = self.constitution
        named = policy and {
            "name": policy.name,
            "version": str(policy.version),
            "sha256": hash_constitution(policy),
        }
        return {
            "recipe": "lockgate train classifier",
            **({"constitution": named} if named else {}),
            "config": {**config, "layers": self.shape.layers, "words": list(config["words"])},
            "exchanges": {"harmful": harmful, "harmless": len(self.examples) - harmful},
            "tokens_seen": self.tokens_through(len(self.steps) - 1),
            "steps": len(self.steps),
            "data_sha256": hash_examples(self.examples),
            **({"selection": dict(self.selection)} if self.selection else {}),
        }

    def _key(self) -> str:
        content = [asdict(self.config), hash_examples(self.examples), self.base.identity.hashes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def adapter_shape(base: Backbone, config: ClassifierConfig) -> AdapterShape:
    """Return the shape of the adapter that a run trains.

    Raises:
        ConfigError: the settings do not fit the backbone.
    """
    depth = base.n_layers if config.depth is None else config.depth
    if not 1 <= depth <= base.n_layers or config.max_tokens > base.context_length:
        raise ConfigError(
            f"{base.name} has {base.n_layers} blocks and a context of {base.context_length} tokens; "
            f"found depth {depth}, max_tokens {config.max_tokens}"
        )
    layers = min(config.layers, depth)
    shape = AdapterShape(depth=depth, layers=layers, rank=config.rank, alpha=config.alpha)
    return shape.model_copy(update={"targets": linear_names(base, shape)})


def _schedule(progress: float, warmup: float) -> float:
    """Return the share of the highest learning rate: a linear rise over `warmup`, then a cosine down to 0."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return float(0.5 * (1 + np.cos(np.pi * (progress - warmup) / (1 - warmup))))


def _inject(backbone: Backbone, shape: AdapterShape, seed: int) -> dict[str, Tensor]:
    """Add adapters to the backbone's modules. Returns their parameters by PEFT's names."""
    peft = need("peft", extra="train", feature="training a second stage")
    settings = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=list(shape.targets),
        layers_to_transform=list(shape.blocks),
        layers_pattern="layers",
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, backbone.model)
    backbone.model.eval()
    found: dict[str, Tensor] = {}
    for name, parameter in backbone.model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            found[ADAPTER_PREFIX + name.replace(".default.weight", ".weight")] = parameter
    return found
