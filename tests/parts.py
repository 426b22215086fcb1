"""Guards on a tiny backbone, and exchanges for them to score."""

import hashlib
from functools import cache
from pathlib import Path

import yaml
from models import random_head, tiny_backbone

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.constitution import Constitution, constitution_path, load_constitution
from lockgate.exchanges import Exchange, Message
from lockgate.guards import Guard

WORDS = ["canal", "lock", "gate", "bridge", "mill", "orchard", "boat", "water", "path", "towpath"]


@cache
def policy() -> tuple[Constitution, str]:
    return load_constitution("stage-magic"), constitution_path("stage-magic").read_text(encoding="utf-8")


def make_guard(backbone: Backbone | None = None, *, seed: int = 0, **thresholds) -> Guard:
    backbone = backbone or tiny_backbone()
    constitution, text = policy()
    return Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=constitution,
        constitution_yaml=text,
        head=random_head(backbone, seed),
        thresholds=Thresholds(**{"flag": 0.5, "tolerance": 1e-3, **thresholds}),
    )


def make_exchange(number: int, words: int = 8, label: float | None = None) -> Exchange:
    text = " ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(words))
    turns = (
        Message("user", f"tell me of {text} {number}"),
        Message("assistant", f"{text}, {number} of them"),
    )
    return Exchange(turns, label, None, "made")


def rewrite(path: Path, change) -> None:
    """Change `guard.yaml` as one who knows how it is sealed."""
    content = yaml.safe_load(path.read_text())
    content.pop("sha256")
    change(content)
    body = yaml.safe_dump(content, sort_keys=False, width=110).encode()
    path.write_bytes(body + f"sha256: {hashlib.sha256(body).hexdigest()}\n".encode())
