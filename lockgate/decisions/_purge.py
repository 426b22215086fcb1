"""Removing old entries so that the chains can still be checked.

A purge removes the oldest entries of each chain. An entry of the kind `purge` says so in the chain of who
did it: it names the last removed entry of each chain with its hash, and the chain goes on from there.
"""

import json
from typing import Any

from sqlalchemy import Connection, and_, delete, select

from lockgate.databases import take_turn
from lockgate.decisions._chain import Draft, Entry, Tip, extend
from lockgate.decisions._schema import CHAINS, ENTRIES, LOG_SCHEMA
from lockgate.decisions._store import add_entries, chains, first_of, read_entries, tip_of

_COLUMNS = ENTRIES.c


def purge(
    connection: Connection, tip: Tip, before: str, at: str, reason: str, most: int | None = None
) -> tuple[int, Entry | None]:
    """Remove the oldest entries of all chains, and record in a chain what was removed.

    Of each chain, the entries up to the first one that is not older than `before` are removed.

    Args:
        tip: where the record goes.
        before: a time as entries have it.
        at: the time now.
        reason: who asked for the purge, for the record.
        most: entries to remove at most. None removes all that are old.

    Returns:
        The number of removed entries, and the record; None if nothing was to be removed.
    """
    take_turn(connection, LOG_SCHEMA)
    gone = _oldest(connection, before, most)
    if not gone:
        return 0, None
    removed = [*_still_needed(connection, set(gone)), *(_named(connection, *last) for last in gone.items())]
    count = 0
    for chain, seq in gone.items():
        old = and_(_COLUMNS.chain == chain, _COLUMNS.seq <= seq)
        count += connection.execute(delete(ENTRIES).where(old)).rowcount
    over = [named["chain"] for named in removed if named["ended"] and named["chain"] in gone]
    if over:
        connection.execute(delete(CHAINS).where(CHAINS.c.chain.in_(over)))
    body = {"before": before, "entries": count, "reason": reason, "removed": removed}
    [entry] = extend(tip, [Draft("purge", at, json.dumps(body))])
    add_entries(connection, [entry])
    return count, entry


def purged_up_to(connection: Connection, chain: str) -> int:
    """Return the number of the last entry of a chain that a purge has removed; -1 if none has."""
    return max((tip["seq"] for tip in _removed_so_far(connection) if tip["chain"] == chain), default=-1)


def _oldest(connection: Connection, before: str, most: int | None) -> dict[str, int]:
    """Return the last entry to remove of each chain that has one. Only old entries are looked at."""
    found: dict[str, int] = {}
    for chain in chains(connection):
        first, last = first_of(connection, chain), tip_of(connection, chain)
        if first is None or last is None or first.draft.at >= before or most == 0:
            continue
        stays = and_(_COLUMNS.chain == chain, _COLUMNS.at >= before)
        kept = connection.execute(select(_COLUMNS.seq).where(stays).order_by(_COLUMNS.seq).limit(1)).scalar()
        end = last.seq if kept is None else kept - 1
        if most is not None:
            end = min(end, first.seq + most - 1)
            most -= end - first.seq + 1
        found[chain] = end
    return found


def _named(connection: Connection, chain: str, seq: int) -> dict[str, Any]:
    place = and_(_COLUMNS.chain == chain, _COLUMNS.seq == seq)
    kind, digest = connection.execute(select(_COLUMNS.kind, _COLUMNS.hash).where(place)).one()
    return {"chain": chain, "seq": seq, "hash": digest, "ended": kind == "end"}


def _still_needed(connection: Connection, gone: set[str]) -> list[dict[str, Any]]:
    """Return what older purges say about chains that this one does not touch.

    The records of those purges may be removed now, and chains begin where they say.
    """
    newest: dict[str, dict[str, Any]] = {}
    for tip in _removed_so_far(connection):
        if tip["chain"] not in newest or newest[tip["chain"]]["seq"] < tip["seq"]:
            newest[tip["chain"]] = tip
    geneses = [json.loads(entry.draft.body) for entry in list(read_entries(connection, kinds=["genesis"]))]
    named = {body["previous"]["chain"] for body in geneses if body["previous"] is not None}
    there = {chain for chain in chains(connection) if tip_of(connection, chain) is not None}
    # The writer of a chain without an end may be quiet, and go on some day.
    return [
        tip
        for chain, tip in newest.items()
        if chain not in gone and (chain in named | there or not tip["ended"])
    ]


def _removed_so_far(connection: Connection) -> list[dict[str, Any]]:
    purges = list(read_entries(connection, kinds=["purge"]))
    return [tip for entry in purges for tip in json.loads(entry.draft.body)["removed"]]
