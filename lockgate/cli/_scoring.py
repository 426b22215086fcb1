"""Options and helpers for commands that score: load a guard, score files with progress."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import progress, warnings_as_lines

if TYPE_CHECKING:
    from lockgate.guards import Guard
    from lockgate.tables import ScoresTable

BackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="Folder of the guard's backbone. Default: the embedded one.")
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        help="Processes that score, with one thread each. A single process uses all cores.",
        min=1,
    ),
]


def load_guard(
    guard: str,
    backbone: str | None,
    device: str = "auto",
    dtype: str = "auto",
    tell: Callable[[str], None] | None = None,
) -> "Guard":
    """Load the guard that an option names.

    Args:
        tell: takes a warning that the precision has changed. By default it is a line on standard error.

    Raises:
        GuardError, BackboneError, ConfigError: as `Guard.load` does.
    """
    from lockgate.guards import Guard

    with warnings_as_lines(tell):
        return Guard.load(guard, backbone=backbone, device=device, dtype=dtype)


def score_with_progress(guard: "Guard", source: Path, target: Path, workers: int) -> "ScoresTable":
    """Score one file and write its scores table. Progress goes to standard error."""
    from lockgate.traffic import score_file

    with watch_files(f"score {source.name}") as report:
        return score_file(guard, source, target, workers=workers, report=lambda done: report(source, done))


@contextmanager
def watch_files(label: str) -> Iterator[Callable[[Path, int], None]]:
    """Show progress on standard error. Yield a function that takes a file and its finished exchanges."""
    with progress(label) as advance:
        before: dict[Path, int] = {}

        def report(source: Path, done: int) -> None:
            advance(max(0, done - before.get(source, 0)))
            before[source] = max(done, before.get(source, 0))

        yield report


def read_scores(paths: Sequence[Path]) -> "ScoresTable":
    """Read scores tables and join them in order."""
    from lockgate.tables import ScoresTable

    return ScoresTable.concat([ScoresTable.read(path) for path in paths])
