"""Exchange classifiers with random adapters on tiny backbones, and exchanges for them to judge."""

import random
from functools import cache

import torch
from models import tiny_backbone

from lockgate.backbones import Backbone, Feed
from lockgate.classifiers import AdapterShape, ExchangeClassifier
from lockgate.classifiers._adapter import ADAPTER_PREFIX, adapted_maps, linear_names
from lockgate.classifiers._exchange import VALUE_BIAS, VALUE_WEIGHT, classifier_record
from lockgate.exchanges import Exchange, Message

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path"]
PLANTED = "!"
# Letters are single tokens for every tokenizer of the tests.
VERDICT_WORDS = ("y", "n")
# How far verdicts of two ways to read may lie apart.
TOLERANCE = 1e-4


def random_classifier(
    backbone: Backbone, *, head="verdict", reads="exchange", layers=2, depth=None, seed=0, scale=0.3
) -> ExchangeClassifier:
    depth = depth or backbone.n_layers
    shape = AdapterShape(depth=depth, layers=layers, rank=4, alpha=8.0)
    shape = shape.model_copy(update={"targets": linear_names(backbone, shape)})
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in adapted_maps(backbone, shape).items():
        rows, columns = module.weight.shape
        for part, size in (("A", (4, columns)), ("B", (rows, 4))):
            tensors[f"{ADAPTER_PREFIX}{name}.lora_{part}.weight"] = (
                torch.randn(size, generator=generator) * scale
            )
    if head == "value":
        tensors[VALUE_WEIGHT] = torch.randn(backbone.hidden_size, generator=generator)
        tensors[VALUE_BIAS] = torch.tensor(0.3)
    fields = {"name": "tiny", "reads": reads, "head": head, "words": VERDICT_WORDS, "adapter": shape}
    return ExchangeClassifier(backbone, classifier_record(backbone, fields), tensors)


@cache
def tiny_classifier(architecture="llama", head="verdict", reads="exchange", layers=2) -> ExchangeClassifier:
    """Shared between tests: they must not change it."""
    return random_classifier(tiny_backbone(architecture), head=head, reads=reads, layers=layers)


def planted(number: int, label: float, words: int = 8, **meta) -> Exchange:
    """An exchange whose answer holds the planted word if it is harmful."""
    draw = random.Random(number)
    answer = [draw.choice(WORDS) for _ in range(words)]
    if label >= 0.5:
        answer[draw.randrange(words // 2, words)] = PLANTED * 3
    prompt = " ".join(draw.choice(WORDS) for _ in range(3))
    turns = (Message("user", f"{prompt} {number}?"), Message("assistant", " ".join(answer)))
    return Exchange(turns, label, None, "made", meta)


def fresh(classifier: ExchangeClassifier, ids: list[int], answer_start: int) -> float:
    """The verdict after a conversation, read at once and alone."""
    row = [*ids, *classifier.suffix]
    with classifier.pool(len(row)) as pool:
        hidden = pool.read([Feed(pool.open(len(row)), row)])[0]
    return (
        classifier.verdicts(hidden[-1:])[0]
        if classifier.suffix
        else max(classifier.verdicts(hidden[answer_start - 1 :]))
    )
