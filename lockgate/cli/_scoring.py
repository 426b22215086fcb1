"""Scoring inside other commands: load a guard, score files with progress."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import progress

if TYPE_CHECKING:
    from lockgate.evaluation import ScoresTable
    from lockgate.guards import Guard

BackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="The guard's backbone, if not the embedded one.")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", help="Processes that score, one thread each.", min=1)
]


def load_guard(guard: str, backbone: str | None) -> "Guard":
    """The guard of a command line. Raises GuardError or BackboneError."""
    from lockgate.guards import Guard

    return Guard.load(guard, backbone=backbone)


def score_with_progress(guard: "Guard", source: Path, target: Path, workers: int) -> "ScoresTable":
    """Score one file into a table on disk, with progress on standard error."""
    with progress(f"score {source.name}") as advance:
        done = 0

        def report(total: int) -> None:
            nonlocal done
            advance(max(0, total - done))
            done = max(done, total)

        return guard.score_file(source, target, workers=workers, report=report)


def read_scores(paths: Sequence[Path]) -> "ScoresTable":
    """Several scores tables, one after the other."""
    from lockgate.evaluation import ScoresTable

    return ScoresTable.concat([ScoresTable.read(path) for path in paths])
