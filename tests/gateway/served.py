"""`lockgate serve` as a process, with a guard on a tiny model."""

from contextlib import contextmanager
from pathlib import Path

from models import random_head, tiny_backbone
from processes import Command
from serving import NEVER

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.constitution import constitution_path, load_constitution
from lockgate.guards import Guard


def save_guard(root: Path) -> Path:
    """Save a tiny model and a guard for it below `root`."""
    backbone = tiny_backbone("qwen2", seed=3)
    backbone.model.save_pretrained(root / "model")
    backbone.tokenizer.save_pretrained(root / "model")
    backbone = Backbone.load(root / "model")
    constitution = constitution_path("general-harms")
    guard = Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("general-harms"),
        constitution_yaml=constitution.read_text(),
        head=random_head(backbone),
        thresholds=Thresholds(NEVER),
    )
    guard.save(root / "guard")
    return root


def options(folders, *arguments, log=None):
    return [
        *("serve", "--guard", str(folders / "guard"), "--backbone", str(folders / "model")),
        *("--decisions", str(log or folders / "decisions.db"), *arguments),
    ]


@contextmanager
def serving(preloaded, folders, *arguments, variables=None):
    """The running process and the first line it printed. `variables` are further ones of its environment."""
    words = ["lockgate", *options(folders, "--threads", "1", *arguments)]
    command = Command(*words, cwd=folders, preloaded=preloaded, variables=variables)
    try:
        yield command.process, command.first_line()
    finally:
        command.close()


def save_strict(folders: Path, target: Path) -> None:
    """Save a guard that flags everything."""
    guard = Guard.load(folders / "guard", backbone=folders / "model")
    Guard.create(
        name="strict",
        backbone=guard.backbone,
        constitution=guard.constitution,
        constitution_yaml=constitution_path("general-harms").read_text(),
        head=guard.head,
        thresholds=Thresholds(-1e9, min_tokens=1),
    ).save(target)
