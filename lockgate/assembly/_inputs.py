"""The inputs of a build, and the progress that it reports."""

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
    """Progress of a step: `done` of `total` units. `total` is None until it is known."""

    step: str
    done: int
    total: int | None
    unit: str


Watch = Callable[[BuildProgress], None]


def silent(_: BuildProgress) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """The inputs and settings of a build.

    Attributes:
        constitution: the policy.
        generator: the generator that writes the data.
        backbone: the model that the guard reads activations from.
        factory: the plan of the data.
        training: the plan of training and calibration.
        benign: files of the user's own traffic, unlabelled or labelled harmless.
        data: files of labelled exchanges for training, beside the generated ones.
        prompts: files of prompts with a category, which join the generated questions.
        evaluation: files that are never used for training or calibration. The report covers those with
            labels.
        mine: files of harmless or unlabelled exchanges, a pool from which a second stage is trained.
        feedback: a file of reviews of a guard's verdicts.
        update: the guard to replace.
        train_on_top: also train on exchanges of the traffic's top (`review.jsonl`) that reviews call harmful.
            By default they are only left out of the sample, so that nothing is trained or scored again.
        accept: replace the old guard even if the new one is worse.
        executor: where the factory's batches run; None runs them in this process.
        judge: a generator that checks the labels of generated rows.
        judge_rows: hand-labelled rows that the judge must agree with first.
        workers: processes that read and score, one thread each.
        watch: called with the progress of each step.
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
    mine: tuple[Path, ...] = ()
    feedback: Path | None = None
    update: Path | None = None
    train_on_top: bool = False
    accept: bool = False
    executor: Executor | None = None
    judge: GeneratorSource | None = None
    judge_rows: Path | None = None
    workers: int = 1
    watch: Watch = silent

    def __post_init__(self) -> None:
        """Check files and settings before anything is made. Raises ConfigError."""
        single = [path for path in (self.feedback, self.judge_rows) if path is not None]
        for path in (*self.benign, *self.data, *self.prompts, *self.evaluation, *self.mine, *single):
            if not path.is_file():
                raise ConfigError(f"{path}: no such file")
        if (self.judge is None) != (self.judge_rows is None):
            raise ConfigError("judge: give a judge and its hand-labelled rows together, or neither")
        if self.workers < 1:
            raise ConfigError("workers: expected at least 1")
        if self.workers > 1 and not self.backbone.source:
            raise ConfigError(
                "workers: expected 1 for a backbone in memory only; other processes can't load it"
            )


def file_hashes(paths: tuple[Path, ...]) -> list[Any]:
    """Return name and hash of each file, for a step's key."""
    return [[path.name, hash_path(path)] for path in paths]
