"""Random exchange classifiers on tiny backbones, and verdict sources that fail."""

import threading
from dataclasses import dataclass
from functools import cache

import torch
from models import tiny_backbone

from lockgate.backbones import Backbone
from lockgate.classifiers import AdapterShape, ExchangeClassifier
from lockgate.classifiers._adapter import adapted_maps
from lockgate.classifiers._exchange import classifier_record
from lockgate.constitution import load_constitution
from lockgate.guards import Verdicts


def random_classifier(backbone: Backbone, seed: int = 0, **fields) -> ExchangeClassifier:
    """A classifier whose adapter holds random numbers; its verdicts differ widely."""
    shape = AdapterShape(depth=backbone.n_layers, layers=2, rank=2, alpha=2.0)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in adapted_maps(backbone, shape).items():
        rows, columns = module.weight.shape
        down = torch.randn(2, columns, generator=generator) / columns**0.5
        up = torch.randn(rows, 2, generator=generator) / 2
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    if fields.get("head") == "value":
        tensors["value.weight"] = torch.randn(backbone.hidden_size, generator=generator)
        tensors["value.bias"] = torch.tensor(0.5)
    settings = {"name": "tiny-judge", "reads": "exchange", "head": "verdict", "question": "?"}
    policy = load_constitution("stage-magic")
    training = {"constitution": {"name": policy.name, "version": str(policy.version)}}
    record = classifier_record(
        backbone,
        {**settings, "words": ("0", "1"), "adapter": shape.model_dump(), "training": training, **fields},
    )
    return ExchangeClassifier(backbone, record, tensors)


@cache
def tiny_classifier(architecture: str = "llama", head: str = "verdict") -> ExchangeClassifier:
    """A random classifier on a tiny backbone, shared between tests: they must not change it."""
    return random_classifier(tiny_backbone(architecture), head=head)


class FaultyVerdicts(Verdicts):
    """Verdicts that hang while `stuck` is set, fail while `broken` is, or are all `constant`."""

    def __init__(self, classifier: ExchangeClassifier, kv_tokens: int) -> None:
        super().__init__(classifier, kv_tokens)
        self.stuck, self.go, self.entered = threading.Event(), threading.Event(), threading.Event()
        self.broken: Exception | None = None
        self.constant: float | None = None
        self.sizes: list[int] = []

    def judge(self, asks):
        self.entered.set()
        self.sizes.append(len(asks))
        if self.stuck.is_set():
            assert self.go.wait(30)
        if self.broken is not None:
            raise self.broken
        found = super().judge(asks)
        return found if self.constant is None else [self.constant] * len(found)


class TokenJudge:
    """A second stage that is no classifier: its verdict is a fixed function of the tokens that it was shown.

    `asked` holds, for each verdict, how many tokens those were.
    """

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.open_sessions = 0

    def open_verdicts(self, kv_tokens):
        return TokenVerdicts(self)

    def read_blocks(self, exchanges, *, stride):
        raise NotImplementedError

    @staticmethod
    def opinion(token_ids) -> float:
        return sum((7 * place + token) % 13 for place, token in enumerate(token_ids)) % 101 / 25 - 2


@dataclass
class TokenSession:
    judge: TokenJudge
    tokens: list[int]

    @property
    def length(self):
        return len(self.tokens)

    def cost(self, new_tokens):
        return 0

    def close(self):
        self.judge.open_sessions -= 1


@dataclass
class TokenVerdicts:
    judge_of_all: TokenJudge
    reads_in_pieces: bool = True

    def open(self, chat, capacity):
        self.judge_of_all.open_sessions += 1
        return TokenSession(self.judge_of_all, list(chat.token_ids[: chat.answer_start]))

    def judge(self, asks):
        for session, new in asks:
            session.tokens.extend(new)
            self.judge_of_all.asked.append(session.length)
        return [TokenJudge.opinion(session.tokens) for session, _ in asks]

    def flops(self, session, cost):
        return 0.0

    def close(self):
        pass
