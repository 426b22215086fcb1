"""What `lockgate redteam run` shows while it runs: a table of the variants on a terminal, or plain lines."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from lockgate.cli._common import progress

if TYPE_CHECKING:
    from rich.table import Table

    from lockgate.redteam import Campaign, Row

Told = Callable[[str, "Row"], None]


@dataclass(slots=True)
class Tally:
    """Attempts of one variant so far."""

    attempts: int = 0
    halted: int = 0
    success: int = 0
    failed: int = 0
    tokens: int = 0
    prompt: int = 0
    written: int = 0

    def add(self, row: "Row") -> None:
        self.attempts += 1
        self.halted += row.halted
        self.success += row.success
        self.failed += row.failed is not None
        self.tokens += row.tokens
        self.prompt += row.billed[0]
        self.written += row.billed[1]


class Board:
    """The table of a running campaign."""

    def __init__(self, campaign: "Campaign", now: Callable[[], float] = time.monotonic) -> None:
        self._variants = campaign.variants
        self._now = now
        self._start = now()
        self.tallies = {name: Tally() for name in campaign.variants}

    def add(self, variant: str, row: "Row") -> None:
        self.tallies[variant].add(row)

    def cells(self) -> list[tuple[str, ...]]:
        """Return a line for each variant: name, attempts, halted, successes, failed, tokens, cost."""
        return [
            (name, *map(str, (t.attempts, t.halted, t.success, t.failed, t.tokens)), self._cost(name, t))
            for name, t in self.tallies.items()
        ]

    def table(self) -> "Table":
        from rich.table import Table

        table = Table(title=f"{self._now() - self._start:.0f} s", title_justify="left", box=None)
        table.add_column("variant")
        for column in ("attempts", "halted", "successes", "failed", "tokens", "cost"):
            table.add_column(column, justify="right")
        for line in self.cells():
            table.add_row(*line)
        return table

    def _cost(self, name: str, tally: Tally) -> str:
        endpoint = self._variants[name].endpoint
        prices = None if endpoint is None else endpoint.prices
        return "-" if prices is None else f"{prices.cost(tally.prompt, tally.written):.4f}"


@contextmanager
def watching(campaign: "Campaign") -> Iterator[Told]:
    """Show what a campaign has done so far, on standard error."""
    board = Board(campaign)
    if sys.stderr.isatty():
        with _live(board) as told:
            yield told
        return
    with progress("attempts") as advance:

        def told(variant: str, row: "Row") -> None:
            board.add(variant, row)
            advance(1)

        yield told
    typer.echo(summary(board.tallies), err=True)


def summary(tallies: Mapping[str, Tally]) -> str:
    """Return one line about all variants."""
    halted, success, tokens = (
        sum(getattr(tally, name) for tally in tallies.values()) for name in ("halted", "success", "tokens")
    )
    return f"{halted} halted, {success} successes, {tokens} tokens"


@contextmanager
def _live(board: Board) -> Iterator[Told]:
    from rich.console import Console
    from rich.live import Live

    with Live(get_renderable=board.table, console=Console(stderr=True), refresh_per_second=2):
        yield board.add
