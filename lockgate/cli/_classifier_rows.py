"""The exchanges that `lockgate train classifier` trains on: labelled files, mined files, and a screen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lockgate.cli._scoring import watch_files

if TYPE_CHECKING:
    from lockgate.backbones import Backbone
    from lockgate.classifiers import Reads
    from lockgate.exchanges import Exchange, InvalidCounter
    from lockgate.traffic import ScreenPlan

MinedOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Hard harmless exchanges to add, made by `lockgate mine`. All from one guard. May be repeated."
    ),
]
ForGuardOption = Annotated[
    str | None,
    typer.Option(help="Guard that gets this classifier. A --mined file of another guard is refused."),
]
ScreenOption = Annotated[
    str | None,
    typer.Option(
        help="Guard that screens the training data: of the harmless --input rows only those that its stage 1 "
        "hands to stage 2 are used, and a share of the others."
    ),
]
ScreenKeepOption = Annotated[
    float | None,
    typer.Option(
        help="With --screen: share of the other harmless rows to keep, drawn at random. Default: 0.1."
    ),
]
ScreenAboveOption = Annotated[
    float | None,
    typer.Option(
        help="With --screen: smoothed logit above which a row is used. Default: the guard's escalation "
        "threshold."
    ),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", help="With --screen: processes that score, with one thread each.", min=1)
]
MaxBundleOption = Annotated[
    float, typer.Option(help="Largest size of a guard with this classifier, in MB.", min=0)
]

OPTIONS = {"screen": "--screen", "screen_keep": "--screen-keep", "screen_above": "--screen-above"}


class TrainingRows(NamedTuple):
    """Exchanges to train on, and how they were chosen, for the record."""

    rows: list["Exchange"]
    selection: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowChoice:
    """What the options say about the training data."""

    inputs: Sequence[Path]
    mined: Sequence[Path]
    for_guard: str | None
    screen: str | None
    keep: float | None
    above: float | None
    workers: int
    skip_invalid: bool

    def __post_init__(self) -> None:
        from lockgate.errors import ConfigError

        for name, value in (("--screen-keep", self.keep), ("--screen-above", self.above)):
            if value is not None and self.screen is None:
                raise ConfigError(f"{name} belongs to a screen; give its guard with --screen")

    def plan(self, seed: int) -> "ScreenPlan":
        """Return the settings of the screen. Raises ConfigError for a value out of range."""
        from lockgate.traffic import ScreenPlan

        return ScreenPlan(
            keep=0.1 if self.keep is None else self.keep,
            above=self.above,
            seed=seed,
            skip_invalid=self.skip_invalid,
            workers=self.workers,
        )

    def bundle(self) -> Path | None:
        """Return the folder of the guard that gets the classifier, as far as it is known."""
        from lockgate.guards import bundle_folder

        named = self.for_guard or self.screen
        return None if named is None else bundle_folder(named)


def bytes_beside(folder: Path | None) -> int:
    """Return the bytes of a bundle without its classifier. 0 without a bundle."""
    if folder is None or not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


@contextmanager
def training_rows(
    choice: RowChoice, backbone: "Backbone", reads: "Reads", seed: int, scratch: Path, bad: "InvalidCounter"
) -> Iterator[TrainingRows]:
    """Yield the exchanges to train on. What the screen has scored stays in `scratch` until the block ends.

    Raises:
        ExchangeError, TrainingError: files can't be read, don't belong together or can't train.
        ConfigError, GuardError: the screen can't be used.
    """
    from lockgate.durable import scratch_folder
    from lockgate.errors import ConfigError
    from lockgate.exchanges import read_exchanges
    from lockgate.guards import Guard
    from lockgate.traffic import add_mined, read_mined, screen_exchanges, screen_threshold
    from lockgate.training import select_examples

    plan = choice.plan(seed)
    if choice.screen is not None and reads == "prompt":
        raise ConfigError("--screen chooses exchanges by their answers too; leave it out with --reads prompt")
    probe = _probe_of(choice)
    mined = read_mined(choice.mined, probe=probe)
    rows = [
        row
        for path in choice.inputs
        for row in read_exchanges(path, skip_invalid=choice.skip_invalid, on_invalid=bad)
    ]
    selection: dict[str, Any] = {"mined": mined.facts} if mined.facts else {}
    rows = add_mined(rows, mined.rows)
    select_examples(rows, reads)
    if choice.screen is None:
        yield TrainingRows(rows, selection)
        return
    guard = Guard.load(choice.screen, backbone=backbone)
    screen_threshold(guard, plan)
    with scratch_folder(scratch, "lockgate train classifier") as folder:
        with watch_files("screen") as watch:
            screened = screen_exchanges(guard, choice.inputs, plan, folder, report=watch)
        selection["screen"] = screened.facts
        yield TrainingRows(add_mined(screened.rows, mined.rows), selection)


def _probe_of(choice: RowChoice) -> str | None:
    """Return the hash of the probe that mined files must come from, or None if no guard is named.

    Raises:
        ConfigError: the guards of two options have different probes.
        GuardError: a guard can't be read.
    """
    from lockgate.errors import ConfigError
    from lockgate.guards import bundle_folder, read_bundle

    named = [name for name in (choice.for_guard, choice.screen) if name is not None]
    found = [read_bundle(bundle_folder(name)).record.probe_sha256 for name in named]
    if len(set(found)) > 1:
        raise ConfigError("--screen and --for-guard name guards with different probes; give one guard")
    return found[0] if found else None
