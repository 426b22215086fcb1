"""Following a log from its begin on, a bounded part at a time: each decision comes once."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select

from lockgate.decisions._newest import Line
from lockgate.decisions._record import Decision
from lockgate.decisions._schema import CHAINS, ENTRIES
from lockgate.decisions._store import tip_of

_DECODER = msgspec.json.Decoder(Decision)
_COLUMNS = ENTRIES.c


class Onward(NamedTuple):
    """The next decisions of a log.

    Attributes:
        seen: the number of the newest entry that was read, by chain. The next call goes on from there. Chains
            that are not in this log stay in it.
        more: whether there are decisions that this call has left for the next one.
    """

    lines: tuple[Line, ...]
    seen: dict[str, int]
    more: bool


def read_onward(connection: Connection, seen: Mapping[str, int], most: int) -> Onward:
    """Read chain after chain, in the order in which they began. See `LogReader.onward`."""
    lines: list[Line] = []
    reached = dict(seen)
    read, more = 0, False
    names = connection.execute(select(CHAINS.c.chain).order_by(CHAINS.c.begun, CHAINS.c.chain)).scalars()
    for chain in list(names):
        tip, last = tip_of(connection, chain), seen.get(chain, -1)
        if tip is not None and tip.seq > last:
            rows = _rows(connection, chain, last, most - read + 1)
            # One more than may be read shows whether there are more.
            cut = len(rows) > most - read
            rows = rows[: most - read]
            read, more = read + len(rows), more or cut
            reached[chain] = (rows[-1].seq if rows else last) if cut else tip.seq
            for row in rows:
                try:
                    decision = _DECODER.decode(row.body)
                except msgspec.MsgspecError:
                    continue  # the chain says that it is damaged
                lines.append(Line(decision, row.at, chain, row.seq, row.content_mode))
    return Onward(tuple(sorted(lines, key=lambda line: line[1:4])), reached, more)


def _rows(connection: Connection, chain: str, last: int, most: int) -> list[Any]:
    wanted = select(_COLUMNS.seq, _COLUMNS.at, _COLUMNS.body, _COLUMNS.content_mode)
    # With the bare column, SQLite would take the index of kinds.
    wanted = wanted.where(_COLUMNS.chain == chain, _COLUMNS.seq > last, _COLUMNS.kind + "" == "decision")
    return list(connection.execute(wanted.order_by(_COLUMNS.seq).limit(most)))
