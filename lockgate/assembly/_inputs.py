"""What a build is given and what it says while it works."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockgate.assembly._plan import TrainingPlan
from lockgate.backbones import Backbone
from lockgate.constitution import Constitution
from lockgate.durable import hash_path
from lockgate.errors import ConfigError
from lockgate.synthesis import Executor, GeneratorSource
from lockgate.synthesis.factory import FactoryPlan


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a step has come: `done` of `total` units; None where the total isn't known yet."""

    step: str
    done: int
    total: int | None
    unit: str


Watch = Callable[[BuildProgress], None]


def silent(_: BuildProgress) -> None:
    """Says nothing."""


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """Everything a build is made from.

    Attributes:
        constitution: the policy; `generator` writes for it, after `factory`.
        backbone: what the guard will read with.
        training: how the probe is trained and calibrated.
        benign: files of the user's own traffic, unlabelled or labelled harmless.
        data: files of labelled exchanges that train besides.
        prompts: files of prompts with a category, which join the generated questions.
        evaluation: files that nothing may be trained or calibrated on; labelled ones are reported on.
        feedback: reviews of a guard's verdicts. `update`: the guard that the new one is to replace.
        accept: replace it even where the comparison says worse.
        executor: where the factory's batches run.
        judge, judge_rows: who checks the labels of generated rows, and the rows it must agree with first.
        workers: processes that read and score, one thread each.
    """

    constitution: Constitution
    generator: GeneratorSource
    backbone: Backbone
    factory: FactoryPlan = field(default_factory=FactoryPlan)
    training: TrainingPlan = field(default_factory=TrainingPlan)
    benign: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    prompts: tuple[Path, ...] = ()
    evaluation: tuple[Path, ...] = ()
    feedback: Path | None = None
    update: Path | None = None
    accept: bool = False
    executor: Executor | None = None
    judge: GeneratorSource | None = None
    judge_rows: Path | None = None
    workers: int = 1
    watch: Watch = silent

    def __post_init__(self) -> None:
        """Raises ConfigError for files that aren't there, before anything is made."""
        single = [path for path in (self.feedback, self.judge_rows) if path is not None]
        for path in (*self.benign, *self.data, *self.prompts, *self.evaluation, *single):
            if not path.is_file():
                raise ConfigError(f"{path}: no such file")
        if (self.judge is None) != (self.judge_rows is None):
            raise ConfigError("judge: give a judge and its hand-labelled rows together, or neither")
        if self.workers < 1:
            raise ConfigError("workers: expected at least 1")
        if self.workers > 1 and not self.backbone.source:
            raise ConfigError("workers: a backbone that lies in memory only is read by one process")


def file_hashes(paths: tuple[Path, ...]) -> list[Any]:
    """Files as a step's key names them."""
    return [[path.name, hash_path(path)] for path in paths]
