"""Helpers for all commands: exit codes, JSON output, tables and progress. Imports nothing heavy."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Device that computes: auto, cpu, cuda, cuda:N or mps. auto: the first of CUDA, MPS and CPU "
        "that is there.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="Precision: auto, float32, bfloat16 or float16. auto: the precision of the guard's threshold; "
        "without a guard float32, or on CUDA bfloat16 for a checkpoint of 16 bits.",
    ),
]
GuardArgument = Annotated[
    str, typer.Argument(metavar="GUARD", help="A guard's folder, `embedded` or `stand-in`.")
]

_PLAIN_SECONDS = 10.0

Advance = Callable[[int], None]


@contextmanager
def names_of_options(options: Mapping[str, str]) -> Iterator[None]:
    """Put the name of the option into errors in which the library names a field.

    Args:
        options: the option of each field, such as `--input`.
    """
    from lockgate.errors import LockgateError

    try:
        yield
    except LockgateError as error:
        named = re.match(r"(\w+)(?=: | is )", str(error))
        if named is None or named[1] not in options:
            raise
        raise type(error)(options[named[1]] + str(error)[named.end() :]) from error


def print_json(value: object) -> None:
    """Print one JSON document on standard output. Raises ValueError for NaN and infinity."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_error(message: str) -> None:
    """Print one line on standard error, red on a terminal."""
    line = "".join(character if character.isprintable() else " " for character in message)
    typer.secho(f"error: {line}", fg=typer.colors.RED, err=True)


@contextmanager
def warnings_as_lines(tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Tell warnings about a guard's precision, by default as lines on standard error."""
    import warnings

    from lockgate.errors import PrecisionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PrecisionWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, PrecisionWarning):
            if tell is None:
                typer.echo(f"warning: {warning.message}", err=True)
            else:
                tell(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on a terminal, or else tab-separated lines with a header."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            typer.echo("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        # Plain Text: brackets in a cell are not markup.
        table.add_row(*[Text(str(cell)) for cell in row])
    Console().print(table)


def print_skipped(count: int, first: Sequence[str]) -> None:
    """Print how many malformed rows were left out, and the places of the first ones."""
    if count:
        typer.echo(f"{count} malformed rows left out; the first: {'; '.join(first)}", err=True)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Advance]:
    """Show progress. Yield a function that takes the number of items done since its last call.

    A terminal shows a bar. Otherwise a plain line appears every ten seconds and at the end. Both go to
    standard error, so `--json` output stays clean.
    """
    if sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
    else:
        plain = _PlainProgress(label, total)
        yield plain.advance
        plain.report()


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total)

        def advance(count: int) -> None:
            bars.advance(task, count)

        yield advance


class _PlainProgress:
    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._last >= _PLAIN_SECONDS:
            self.report()

    def report(self) -> None:
        self._last = time.monotonic()
        share = f"/{self._total} ({self._done / self._total:.0%})" if self._total else ""
        passed = self._last - self._start
        left = ""
        if self._total and 0 < self._done < self._total:
            left = f", about {passed * (self._total - self._done) / self._done:.0f} s left"
        typer.echo(f"{self._label}: {self._done}{share}, {passed:.0f} s{left}", err=True)
