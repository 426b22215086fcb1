"""Recorded traffic: the lines of decision logs, and which kind of record a file holds."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from lockgate.decisions import is_database, open_log
from lockgate.errors import ExchangeError
from lockgate.exchanges import InvalidCounter, json_records, suffix_of

Kind = Literal["traffic", "decisions"]
_TRIED = 20


class RecordedScores(msgspec.Struct, frozen=True):
    """The largest scores of one exchange, as the server wrote them.

    Attributes:
        max_prompt, max_answer: largest smoothed logit of the probe in the region; None if there is no number.
        mixed: largest mixed score; None if the second stage was not asked or gave no number.
    """

    max_prompt: float | None = None
    max_answer: float | None = None
    mixed: float | None = None


class RecordedDecision(msgspec.Struct, frozen=True):
    """What is read of one line of the server's decision log. See its `Decision`.

    Attributes:
        id, choice: id of the response and number of the answer in it.
        guard: hash of the guard's bundle; None if the server had none.
        measure: hash of what gave the scores; None in logs of older versions.
    """

    id: str
    choice: int
    guard: str | None
    decision: Literal["pass", "halt", "block", "error", "cancelled"]
    enforced: bool
    scores: RecordedScores
    category: str | None = None
    stage: int | None = None
    measure: str | None = None

    @property
    def halted(self) -> bool:
        """Whether the guard flagged the exchange, also if that was only noted."""
        return self.decision in ("halt", "block")


def read_decisions(path: Path, invalid: InvalidCounter) -> Iterator[tuple[int, RecordedDecision]]:
    """Yield the line numbers and the lines of a decision log.

    Args:
        path: the server's database of SQLite, or a file .jsonl[.gz|.zst] with its lines.
        invalid: counts lines that can't be read.

    Raises:
        ExchangeError: the file can't be read.
    """
    for number, decode in lines_of(path):
        try:
            value = decode()
            yield number, msgspec.convert(value, RecordedDecision)
        except ExchangeError as error:
            invalid(ExchangeError(f"{path}:{number}: {error}"))
        except msgspec.ValidationError:
            invalid(ExchangeError(f"{path}:{number}: expected a line of a decision log"))


def kind_of(paths: Sequence[Path]) -> Kind:
    """Tell from the content whether files hold exchanges or decisions.

    Raises:
        ExchangeError: a file can't be read or holds neither, or the files are of both kinds.
    """
    found = {path: _kind(path) for path in paths}
    kinds = set(found.values())
    if len(kinds) > 1:
        odd = next(path for path, kind in found.items() if kind == "decisions")
        raise ExchangeError(
            f"log: {odd} holds decisions and other files hold exchanges; give the decisions to --decisions"
        )
    return kinds.pop()


def _kind(path: Path) -> Kind:
    if is_database(path):
        return "decisions"
    if suffix_of(path) == ".parquet":
        return "traffic"
    for tried, (_, decode) in enumerate(lines_of(path)):
        try:
            value: Any = decode()
        except ExchangeError:
            value = None
        if isinstance(value, dict) and "messages" in value:
            return "traffic"
        if isinstance(value, dict) and {"decision", "scores"} <= set(value):
            return "decisions"
        if tried == _TRIED:
            break
    raise ExchangeError(
        f"log: {path} holds neither exchanges (`messages`) nor a server's decisions (`decision`, `scores`)"
    )


def lines_of(path: Path) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Yield the numbers of the lines of a file or the records of a database, and what reads them.

    Raises:
        ExchangeError: there is no such file, or it can't be read.
        DecisionLogError: the database can't be read.
    """
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file")
    if is_database(path):
        yield from _stored(path)
    else:
        yield from json_records(path)


def _stored(path: Path) -> Iterator[tuple[int, Any]]:
    with open_log(path) as log:
        for number, stored in enumerate(log.records(), start=1):
            yield number, lambda record=stored.record: record
