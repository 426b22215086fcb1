"""The newest decisions of a log that fit a condition, at a bounded cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from lockgate.decisions._record import Decision
from lockgate.decisions._store import newest_rows
from lockgate.errors import ConfigError

# Records that one call reads, however long the log is: well below a second of a core.
MOST_READ = 10_000
_DECODER = msgspec.json.Decoder(Decision)


class Line(NamedTuple):
    """A decision in the log.

    Attributes:
        at: when the log got it.
        chain, seq: where it stands.
        content_mode: in which form its text is kept; None if it is not.
    """

    decision: Decision
    at: str
    chain: str
    seq: int
    content_mode: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found, newest first.

    Attributes:
        read: number of records that were read.
        end: place from which a further search goes on; None if there are no older records in the time asked
            for.
        until: time of the oldest record that was read; None if there was none.
        damaged: records that are no decisions. `LogReader.verify` says more about them.
    """

    lines: tuple[Line, ...]
    read: int
    end: str | None
    until: str | None
    damaged: int


def read_newest(
    connection: Connection,
    wanted: Callable[[Decision], bool],
    *,
    count: int,
    since: str | None,
    until: str | None,
    before: str | None,
    most: int,
) -> Found:
    """Search from the newest record on. See `LogReader.find`."""
    lines: list[Line] = []
    read, damaged, at, chain, seq = 0, 0, None, "", 0
    limits = {"since": since, "until": until, "before": None if before is None else _place(before)}
    # One more than may be read shows whether there are more.
    for row in newest_rows(connection, "decision", most=most + 1, **limits):  # type: ignore[arg-type]
        if read == most or len(lines) == count:
            return Found(tuple(lines), read, f"{at}_{chain}_{seq}", at, damaged)
        at, chain, seq, body, content_mode = row
        read += 1
        try:
            decision = _DECODER.decode(body)
        except msgspec.MsgspecError:
            damaged += 1
            continue
        if wanted(decision):
            lines.append(Line(decision, at, chain, seq, content_mode))
    return Found(tuple(lines), read, None, at, damaged)


def _place(text: str) -> tuple[str, str, int]:
    at, _, rest = text.partition("_")
    chain, _, seq = rest.rpartition("_")
    # SQLite has no larger numbers.
    if not chain or not seq.isascii() or not seq.isdigit() or len(seq) > 18:
        raise ConfigError("before: expected the place of a record, as an earlier page gave it")
    return at, chain, int(seq)
