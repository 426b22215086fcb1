"""Settings of an exchange classifier and of its training."""

from dataclasses import dataclass
from typing import Literal

import torch

from lockgate.classifiers import QUESTION, WORDS, HeadName, Reads
from lockgate.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """Settings of an exchange classifier and of its training.

    Attributes:
        name: name in results.
        reads: part that the classifier reads: the whole `exchange`, the `prompt` or the `answer`.
        head: `verdict` reads the next token at each cut; `value` is a linear map of every token (CC v1).
        depth: number of the backbone's blocks that are kept. None keeps all.
        layers: number of blocks that are adapted, from the top.
        rank: rank of the low-rank maps.
        alpha: scale of the low-rank maps: they are multiplied by alpha / rank.
        question: question that follows the conversation.
        words: the two verdict words, harmful first.
        max_tokens: longer exchanges keep the template's prefix and their last tokens.
        cuts: number of verdicts for each exchange. One of them is at the end.
        weighting: weights of an exchange's verdicts, see `window_loss`.
        tau: temperature of the softmax weights.
        tokens: conversation tokens to train on. None trains on each exchange once.
        harmful_share: share of harmful exchanges among those drawn. None takes the share in the data. Both
            labels have the same total weight in any case. With a larger share, few harmful exchanges
            make less noise, but fewer different harmless ones are seen.
        tokens_per_step: size of the packed row of one update, suffixes included.
        lr: AdamW's highest learning rate. It falls along a cosine.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: AdamW's weight decay.
        clip: largest norm of the gradient.
        dtype: precision of the frozen weights. Adapters are always float32.
        seed: seed of adapters, order and cuts.
    """

    name: str = "exchange"
    reads: Reads = "exchange"
    head: HeadName = "verdict"
    depth: int | None = None
    layers: int = 10
    rank: int = 16
    alpha: float = 32.0
    question: str = QUESTION
    words: tuple[str, str] = WORDS
    max_tokens: int = 1024
    cuts: int = 4
    weighting: Literal["softmax", "mean"] = "softmax"
    tau: float = 1.0
    tokens: int | None = None
    harmful_share: float | None = None
    tokens_per_step: int = 2048
    lr: float = 2e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"max_tokens": 2, "cuts": 1, "tokens_per_step": 1, "rank": 1, "layers": 1}
        for field, low in least.items():
            if getattr(self, field) < low:
                raise ConfigError(f"{field}: expected at least {low}, found {getattr(self, field)}")
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"tokens: expected at least 1, found {self.tokens}")
        if self.harmful_share is not None and not 0 < self.harmful_share < 1:
            raise ConfigError(f"harmful_share: expected a share between 0 and 1, found {self.harmful_share}")
        if not (self.lr > 0 and 0 <= self.warmup < 1 and self.clip > 0 and self.tau > 0):
            raise ConfigError("expected lr, clip and tau above 0, and warmup from 0 to below 1")
        if self.weighting not in ("softmax", "mean") or self.dtype not in DTYPES:
            raise ConfigError("expected weighting softmax or mean, and dtype float32 or bfloat16")
