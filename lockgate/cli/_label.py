"""`lockgate label`: show exchanges one by one and write a person's verdicts."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import JsonFlag, names_of_options, print_json
from lockgate.cli._keys import Keys

if TYPE_CHECKING:
    from rich.console import Console

    from lockgate.constitution import Constitution
    from lockgate.exchanges import Exchange
    from lockgate.feedback import ReviewFile, Verdict

_VERDICTS: "dict[str, Verdict]" = {"y": "harmful", "n": "harmless"}
_QUESTION = "y breaks the policy   n does not   s skip   u undo   q quit"
_CHOICES = "123456789abcdefghijklmnopqrstuvwxyz"
_BACK = "0"


def register(app: typer.Typer) -> None:
    app.command()(label)


def label(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Exchanges to label: .jsonl[.gz|.zst] or .parquet.")
    ],
    output: Annotated[
        Path,
        typer.Option(help="Review file to append to (.jsonl). Exchanges that it holds are not shown again."),
    ] = Path("reviews.jsonl"),
    constitution: Annotated[
        str | None,
        typer.Option(help="Policy whose categories are offered after y: a file, or a shipped name."),
    ] = None,
    guard: Annotated[
        Path | None, typer.Option(help="Guard whose policy gives the categories, in place of --constitution.")
    ] = None,
    show_score: Annotated[
        bool,
        typer.Option(
            "--show-score",
            help="Show the guard's score and category. Who sees them tends to agree with them.",
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Label exchanges: does the last answer break the policy?

    Keys: y it does, n it doesn't, s skip, u undo the last step, q quit. Each verdict is on the disk before
    the next exchange is shown. Run the same command again to continue; skipped exchanges then come again.
    Without a terminal, each line of standard input is a key.

    The reviews are for `lockgate build --update GUARD --feedback OUTPUT`.
    """
    from rich.console import Console

    from lockgate.errors import ConfigError
    from lockgate.exchanges import read_exchanges
    from lockgate.feedback import ReviewFile

    if constitution is not None and guard is not None:
        raise ConfigError("give either --constitution or --guard")
    policy = _policy(constitution, guard)
    every = list({row.id: row for row in read_exchanges(file)}.values())
    rows = [row for row in every if not row.is_prompt_only and row.messages[-1].content.strip()]
    if not rows:
        raise ConfigError(f"{file}: no exchange with an answer to judge")
    if output.resolve() == file.resolve():
        raise ConfigError("--output: the same file as FILE; name another one")
    with names_of_options({"output": "--output"}), ReviewFile(output) as reviews, Keys() as keys:
        if reviews.mended:
            typer.echo(f"note: the last line of {output} was cut off; it was removed", err=True)
        # One JSON document alone is on standard output.
        session = _Session(rows, reviews, policy, Console(stderr=json, highlight=False), keys, show_score)
        try:
            session.run()
        finally:
            summary = {"file": str(file), "output": str(output), "unanswered": len(every) - len(rows)}
            summary |= session.summarise()
            if json:
                print_json(summary)
            else:
                _print(summary)


def _policy(constitution: str | None, guard: Path | None) -> "Constitution | None":
    from lockgate.constitution import load_constitution
    from lockgate.guards import read_bundle

    if guard is not None:
        return read_bundle(guard).constitution
    return None if constitution is None else load_constitution(constitution)


class _Session:
    """One person's way through the exchanges of a file."""

    def __init__(
        self,
        rows: "Sequence[Exchange]",
        reviews: "ReviewFile",
        policy: "Constitution | None",
        console: "Console",
        keys: Keys,
        with_score: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows, self._reviews, self._console, self._keys = rows, reviews, console, keys
        self._policy, self._with_score, self._clock = policy, with_score, clock
        places = reviews.places(rows)
        known = sorted((place, row) for row, place in enumerate(places) if place is not None)
        # What undo takes back, the last one first. Reviews of earlier runs can be undone too.
        self._steps = [row for _, row in known]
        self._waiting = [row for row, place in enumerate(places) if place is None][::-1]
        self._skipped: set[int] = set()

    def run(self) -> None:
        """Show exchanges until there are no more, or until the person quits."""
        while self._waiting:
            if not self._show(self._waiting[-1]):
                return

    def _show(self, row: int) -> bool:
        from lockgate.cli._shown import show_exchange, show_score

        exchange, console = self._rows[row], self._console
        console.rule(f"{len(self._rows) - len(self._waiting) + 1} of {len(self._rows)}", style="none")
        show_exchange(console, exchange)
        if self._with_score:
            scored = exchange.meta.get("scored")
            show_score(console, scored if isinstance(scored, dict) else {})
        shown = self._clock()
        while True:
            console.print(_QUESTION, markup=False)
            key = self._keys.read()
            if key is None or key == "q":
                return False
            if key == "u":
                self._undo()
                return True
            if key == "s":
                self._skipped.add(row)
                self._step()
                return True
            if key in _VERDICTS and self._judge(row, _VERDICTS[key], shown):
                return True

    def _judge(self, row: int, verdict: "Verdict", shown: float) -> bool:
        """Ask for a category if there are any, and write the verdict. Return False to ask for it again."""
        from lockgate.feedback import Label

        category = None
        if verdict == "harmful" and self._policy is not None:
            chosen = self._choose(self._policy)
            if chosen == _BACK:
                return False
            category = chosen or None
        exchange = self._rows[row]
        self._reviews.add(exchange, Label(verdict, category, round(self._clock() - shown, 1)))
        self._step()
        return True

    def _choose(self, policy: "Constitution") -> str:
        """Return the id of a harmful category, "" for none, or the key that leads back."""
        from lockgate.cli._shown import escape_controls

        offered = dict(zip(_CHOICES, policy.harmful, strict=False))
        while True:
            for key, category in offered.items():
                line = f"  {key} {category.id}: {escape_controls(category.title)}"
                self._console.print(line, markup=False)
            self._console.print(f"category? Enter: none of these   {_BACK} back", markup=False)
            found = self._keys.read()
            # At the end of the input nothing says that the verdict was meant.
            if found is None or found == _BACK:
                return _BACK
            if not found:
                return ""
            if found in offered:
                return offered[found].id

    def _step(self) -> None:
        self._steps.append(self._waiting.pop())

    def _undo(self) -> None:
        if not self._steps:
            self._console.print("nothing to undo", markup=False)
            return
        row = self._steps.pop()
        if row in self._skipped:
            self._skipped.discard(row)
        else:
            self._reviews.undo(self._rows[row])
        self._waiting.append(row)

    def summarise(self) -> dict[str, Any]:
        """Return counts and times over the exchanges of the file, earlier runs included."""
        labels = [found for row in self._rows if (found := self._reviews.find(row)) is not None]
        seconds = [found.seconds for found in labels if found.seconds is not None]
        harmful = sum(found.verdict == "harmful" for found in labels)
        return {
            "exchanges": len(self._rows),
            "labelled": len(labels),
            "harmful": harmful,
            "harmless": len(labels) - harmful,
            "skipped": len(self._skipped),
            "left": len(self._rows) - len(labels),
            "seconds": {
                "median": round(statistics.median(seconds), 1) if seconds else None,
                "total": round(sum(seconds), 1),
            },
        }


def _print(found: dict[str, Any]) -> None:
    typer.echo(
        f"{found['labelled']} of {found['exchanges']} exchanges labelled in {found['output']}: "
        f"{found['harmful']} break the policy, {found['harmless']} do not; {found['left']} left, "
        f"{found['skipped']} of them skipped now"
    )
    if found["unanswered"]:
        typer.echo(f"{found['unanswered']} without an answer are not shown")
    if found["seconds"]["median"] is not None:
        minutes, seconds = divmod(round(found["seconds"]["total"]), 60)
        typer.echo(f"{found['seconds']['median']:.1f} s a label (median), {minutes} min {seconds} s in all")
