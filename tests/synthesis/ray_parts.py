"""Functions and steps that Ray's workers import by name."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from fake_endpoint import words_of

from lockgate.backbones import Backbone
from lockgate.cascade import Thresholds
from lockgate.constitution import constitution_path, load_constitution
from lockgate.errors import GeneratorError, MissingExtra
from lockgate.guards import Guard
from lockgate.synthesis import (
    Completion,
    GenerationRequest,
    Row,
    ScriptedGenerator,
    Step,
    StepContext,
    derive_row,
)


def answer(request: GenerationRequest) -> Completion:
    body = {"messages": [message.to_dict() for message in request.messages], "seed": request.seed}
    return Completion(words_of(body), "stop", 5, 3)


def make_script() -> ScriptedGenerator:
    return ScriptedGenerator(answer)


class CountedScript:
    """Makes the script, with a file for each time it does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> ScriptedGenerator:
        (self.folder / f"{os.getpid()}-{os.urandom(4).hex()}").touch()
        return make_script()


class DeadlyStep(Step):
    """Kills its process at the row of this number, as often as there are files to take away."""

    batch_rows = 3

    def __init__(self, name: str, number: int, lives: Path) -> None:
        super().__init__(name)
        self.number = number
        self.lives = lives

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        for row in rows:
            if row.meta["number"] == self.number and (left := list(self.lives.iterdir())):
                left[0].unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            yield derive_row(row, self.name)


class FaultyStep(Step):
    """Raises the error of this kind at the row of this number."""

    batch_rows = 3

    def __init__(self, name: str, number: int, kind: str) -> None:
        super().__init__(name)
        self.number = number
        self.kind = kind

    def run(self, rows: Iterable[Row], context: StepContext) -> Iterator[Row]:
        for row in rows:
            if row.meta["number"] == self.number:
                raise error_of(self.kind)
            yield row


class OddError(Exception):
    def __init__(self, first: int, second: object) -> None:
        super().__init__(f"odd: {first}")
        self.second = second


def error_of(kind: str) -> Exception:
    match kind:
        case "generator":
            return GeneratorError("endpoint: it is down")
        case "extra":
            return MissingExtra("a thing", "things")
        case "file":
            return FileNotFoundError(2, "No such file or directory", "/nowhere")
        case "unicode":
            return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        case _:
            return OddError(1, object())


def save_guard(folder: Path, backbone_path: Path) -> None:
    """A guard with a random probe on a tiny backbone."""
    from models import random_head

    backbone = Backbone.load(backbone_path)
    Guard.create(
        name="tiny",
        backbone=backbone,
        constitution=load_constitution("stage-magic"),
        constitution_yaml=constitution_path("stage-magic").read_text(encoding="utf-8"),
        head=random_head(backbone, 0),
        thresholds=Thresholds(flag=0.5, tolerance=1e-3),
    ).save(folder)
