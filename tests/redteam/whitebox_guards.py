"""Queries about canals, and guards of every kind on a tiny backbone, for attacks that know the weights."""

from dataclasses import replace
from functools import cache

from classifying import random_classifier
from models import tiny_backbone
from parts import make_guard
from voices import random_text

from lockgate.cascade import Cascade
from lockgate.guards import Guard, VoiceRecord
from lockgate.redteam import Query

CASCADE = Cascade(-0.5, -0.4, 0.5, 0.1, 0.9, 0.2, 1.1, stride=4, tolerance=1e-3, drift=0.2)
VOICES = (
    VoiceRecord(kind="classifier", weight=0.6, mean=0.3, std=1.7),
    VoiceRecord(kind="text", weight=0.4, mean=-0.2, std=0.4),
)
ANSWER = (
    "the lock holds the water back. the boat waits between two gates! what a canal, and it runs past the mill"
)


def ask(number: int = 0) -> Query:
    return Query(id=f"q{number}", category="c", text=f"tell me how the boat {number} goes", answers=(ANSWER,))


@cache
def guard_of(kind: str, architecture: str = "llama", **changes) -> Guard:
    """`one` stage, or two: `verdict`, `value`, `text`, `panel`."""
    options = {key: changes.pop(key) for key in ("flag_on", "min_tokens", "flag", "seed") if key in changes}
    guard = make_guard(tiny_backbone(architecture), **options)
    if kind == "one":
        return guard
    head = "value" if kind == "value" else "verdict"
    judge = None if kind == "text" else random_classifier(guard.backbone, head=head)
    cascade = replace(CASCADE, **changes)
    text = random_text() if kind in ("text", "panel") else None
    return guard.with_cascade(judge, cascade, text=text, voices=VOICES if kind == "panel" else None)
