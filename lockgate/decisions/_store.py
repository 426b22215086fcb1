"""Entries in a database: adding them to a chain and finding them."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, insert, or_, select, tuple_

from lockgate.decisions._chain import Draft, Entry, Kind, Tip
from lockgate.decisions._schema import CHAINS, ENTRIES

# Rows that are read at a time.
_PAGE = 2000
_COLUMNS = ENTRIES.c


def add_chain(connection: Connection, genesis: Entry, writer: str) -> None:
    """Add the genesis of a chain."""
    connection.execute(insert(CHAINS), {"chain": genesis.chain, "writer": writer, "begun": genesis.draft.at})
    add_entries(connection, [genesis])


def add_entries(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add entries behind the tip of their chain. An entry that is there already is an error."""
    connection.execute(insert(ENTRIES), [_row(entry) for entry in entries])


def newest_chain(connection: Connection, writer: str) -> Tip | None:
    """Return the tip of the chain that a writer began last."""
    newest = (
        select(CHAINS.c.chain)
        .where(CHAINS.c.writer == writer)
        .order_by(CHAINS.c.begun.desc(), CHAINS.c.chain.desc())
        .limit(1)
    )
    chain = connection.execute(newest).scalar()
    return None if chain is None else tip_of(connection, chain)


def tip_of(connection: Connection, chain: str) -> Tip | None:
    """Return the newest entry of a chain."""
    found = connection.execute(
        select(_COLUMNS.seq, _COLUMNS.hash)
        .where(_COLUMNS.chain == chain)
        .order_by(_COLUMNS.seq.desc())
        .limit(1)
    ).first()
    return None if found is None else Tip(chain, found.seq, found.hash)


def first_of(connection: Connection, chain: str) -> Entry | None:
    """Return the oldest entry of a chain."""
    wanted = select(ENTRIES).where(_COLUMNS.chain == chain).order_by(_COLUMNS.seq).limit(1)
    return next(iter(list(_entries(connection, wanted))), None)


def chains(connection: Connection) -> list[str]:
    """Return the names of all chains that are there or may go on."""
    return list(connection.execute(select(CHAINS.c.chain).order_by(CHAINS.c.chain)).scalars())


def writers(connection: Connection) -> dict[str, str]:
    """Return the name of the writer of each chain."""
    found = connection.execute(select(CHAINS.c.chain, CHAINS.c.writer))
    return {row.chain: row.writer for row in found}


def read_entries(
    connection: Connection,
    *,
    kinds: Sequence[Kind] = (),
    since: str | None = None,
    until: str | None = None,
    by_time: bool = False,
) -> Iterator[Entry]:
    """Yield entries in the order of chain and number.

    Args:
        kinds: only these kinds. None means all.
        since, until: only entries handed to the log at this time or later, and before that time.
        by_time: in the order of time instead.
    """
    wanted = select(ENTRIES)
    if kinds:
        wanted = wanted.where(_COLUMNS.kind.in_(kinds))
    if since is not None:
        wanted = wanted.where(_COLUMNS.at >= since)
    if until is not None:
        wanted = wanted.where(_COLUMNS.at < until)
    order = (_COLUMNS.chain, _COLUMNS.seq)
    return _entries(connection, wanted.order_by(*((_COLUMNS.at, *order) if by_time else order)))


def read_behind(connection: Connection, seen: dict[str, int]) -> list[Entry]:
    """Return the entries behind those that were seen, in the order of time.

    Args:
        seen: number of the newest entry that was seen, by chain.
    """
    grown = [chain for chain, seq in newest(connection).items() if seq > seen.get(chain, -1)]
    if not grown:
        return []
    behind = or_(*(and_(_COLUMNS.chain == chain, _COLUMNS.seq > seen.get(chain, -1)) for chain in grown))
    order = (_COLUMNS.at, _COLUMNS.chain, _COLUMNS.seq)
    return list(_entries(connection, select(ENTRIES).where(behind).order_by(*order)))


def newest(connection: Connection) -> dict[str, int]:
    """Return the number of the newest entry of each chain."""
    tips = (tip_of(connection, chain) for chain in chains(connection))
    return {tip.chain: tip.seq for tip in tips if tip is not None}


def last_entries(connection: Connection, count: int, kinds: Sequence[Kind]) -> list[Entry]:
    """Return the newest entries of some kinds, oldest first."""
    order = (_COLUMNS.at.desc(), _COLUMNS.chain.desc(), _COLUMNS.seq.desc())
    wanted = select(ENTRIES).where(_COLUMNS.kind.in_(kinds)).order_by(*order).limit(count)
    return list(_entries(connection, wanted))[::-1]


def newest_rows(
    connection: Connection,
    kind: Kind,
    *,
    since: str | None = None,
    until: str | None = None,
    before: tuple[str, str, int] | None = None,
    most: int,
) -> Iterator[Any]:
    """Yield entries of a kind, newest first, without their content.

    Args:
        since, until: only entries handed to the log at this time or later, and before that time.
        before: time, chain and number of an entry. Only older ones are read.
        most: number of rows to read at most.
    """
    place = (_COLUMNS.at, _COLUMNS.chain, _COLUMNS.seq)
    # With the bare column, SQLite would take the index of kinds and sort half of the log.
    wanted = select(*place, _COLUMNS.body, _COLUMNS.content_mode).where(_COLUMNS.kind + "" == kind)
    if since is not None:
        wanted = wanted.where(_COLUMNS.at >= since)
    if until is not None:
        wanted = wanted.where(_COLUMNS.at < until)
    if before is not None:
        wanted = wanted.where(_COLUMNS.at <= before[0], tuple_(*place) < tuple_(*before))
    wanted = wanted.order_by(*(column.desc() for column in place)).limit(most)
    with connection.execute(wanted, execution_options={"yield_per": _PAGE}) as rows:
        for part in rows.partitions():
            yield from part


def entry_of(connection: Connection, exchange: str, choice: int) -> Entry | None:
    """Return the newest decision about an exchange."""
    wanted = (
        select(ENTRIES)
        .where(_COLUMNS.exchange == exchange, _COLUMNS.kind == "decision", _COLUMNS.choice == choice)
        .order_by(_COLUMNS.at.desc(), _COLUMNS.seq.desc())
        .limit(1)
    )
    return next(iter(list(_entries(connection, wanted))), None)


def missing(connection: Connection, drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts whose exchange has no entry of their kind yet."""
    left = []
    for start in range(0, len(drafts), 200):
        part = drafts[start : start + 200]
        names = {draft.exchange for draft in part if draft.exchange is not None}
        found = connection.execute(
            select(_COLUMNS.kind, _COLUMNS.exchange, _COLUMNS.choice).where(_COLUMNS.exchange.in_(names))
        )
        known = {(row.kind, row.exchange, row.choice) for row in found}
        left += [draft for draft in part if (draft.kind, draft.exchange, draft.choice) not in known]
    return left


def _entries(connection: Connection, wanted: Select[Any]) -> Iterator[Entry]:
    with connection.execute(wanted, execution_options={"yield_per": _PAGE}) as rows:
        for row in rows:
            yield _entry(row)


def _row(entry: Entry) -> dict[str, Any]:
    draft = entry.draft
    return {
        "chain": entry.chain,
        "seq": entry.seq,
        "kind": draft.kind,
        "at": draft.at,
        "exchange": draft.exchange,
        "choice": draft.choice,
        "body": draft.body,
        "content_mode": draft.content_mode,
        "content": draft.content,
        "hash": entry.hash,
    }


def _entry(row: Row[Any]) -> Entry:
    content = None if row.content is None else bytes(row.content)
    draft = Draft(row.kind, row.at, row.body, row.exchange, row.choice, content, row.content_mode)
    return Entry(row.chain, row.seq, draft, row.hash)
