"""Reading a decision log: its records, its new ones as they come, and whether its chains hold."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lockgate.databases import Database
from lockgate.decisions._appender import Appender
from lockgate.decisions._chain import Break, Checker, Entry, Kind, Tip
from lockgate.decisions._newest import MOST_READ, Found, read_newest
from lockgate.decisions._onward import Onward, read_onward
from lockgate.decisions._record import Decision
from lockgate.decisions._schema import LOG_SCHEMA, PASSWORD_VARIABLE, place_of
from lockgate.decisions._store import entry_of, last_entries, newest, read_behind, read_entries, writers

_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Stored:
    """A record in the log.

    Attributes:
        record: its fields, as JSON has them.
        content: the text of its exchange as it is kept.
    """

    kind: str
    at: str
    record: dict[str, Any]
    content: bytes | None
    content_mode: str | None


@dataclass(slots=True)
class Report:
    """What a check of all chains has found.

    Attributes:
        breaks: links that do not hold, at most one for each chain.
        heads: the newest entry of each chain. Kept elsewhere, they show later that nothing was cut off.
        open: chains without an end. Their processes still write, or have been killed.
        unfinished: exchanges that have begun and have no decision. They are open, or were cut off by a crash.
        lost: records that a writer had to give up, as it says itself.
    """

    entries: int = 0
    decisions: int = 0
    breaks: list[Break] = field(default_factory=list)
    heads: list[Tip] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    unfinished: int = 0
    lost: int = 0

    @property
    def ok(self) -> bool:
        return not self.breaks

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        listed = {
            name: getattr(self, name) for name in ("entries", "decisions", "unfinished", "lost", "open")
        }
        breaks = [
            {"writer": found.writer, "chain": found.chain, "seq": found.seq, "what": found.what}
            for found in self.breaks
        ]
        heads = [{"chain": tip.chain, "seq": tip.seq, "hash": tip.hash} for tip in self.heads]
        return {"ok": self.ok, **listed, "breaks": breaks, "heads": heads}


class LogReader:
    """A decision log that is open for reading. `open_log` makes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def records(
        self, *, kinds: Sequence[Kind] = ("decision",), since: str | None = None, until: str | None = None
    ) -> Iterator[Stored]:
        """Yield records in the order of time.

        Args:
            kinds: only records of these kinds.
            since, until: only records handed to the log at this time or later, and before that time.

        Raises:
            DecisionLogError: the database can't be read.
        """
        with self._database.reading() as connection:
            for entry in read_entries(connection, kinds=kinds, since=since, until=until, by_time=True):
                yield _stored(entry)

    def last(self, count: int, kinds: Sequence[Kind] = ("decision",)) -> list[Stored]:
        """Return the newest records, oldest first. Raises DecisionLogError."""
        with self._database.reading() as connection:
            return [_stored(entry) for entry in last_entries(connection, count, kinds)]

    def find(
        self,
        wanted: Callable[[Decision], bool] = lambda _: True,
        *,
        count: int = MOST_READ,
        since: str | None = None,
        until: str | None = None,
        before: str | None = None,
        most: int = MOST_READ,
    ) -> Found:
        """Return decisions, newest first. The cost is bounded: one call reads at most `most` records.

        Args:
            wanted: which decisions are returned.
            count: how many of them.
            since, until: only records handed to the log at this time or later, and before that time.
            before: `Found.end` of an earlier call. Only older records are read.
            most: number of records to read, wanted or not.

        Raises:
            ConfigError: `before` is no place.
            DecisionLogError: the database can't be read.
        """
        with self._database.reading() as connection:
            return read_newest(
                connection, wanted, count=count, since=since, until=until, before=before, most=most
            )

    def onward(self, seen: Mapping[str, int], most: int = MOST_READ) -> Onward:
        """Return the decisions behind those that were seen, oldest first, and at most `most` of them.

        Chains are read one after the other, in the order in which they began. In a call that reads all that
        is left, the decisions of all chains come in the order of time. A decision that reaches the database
        late is not missed, since each chain has its own numbers.

        Args:
            seen: `Onward.seen` of an earlier call, or nothing.

        Raises:
            DecisionLogError: the database can't be read.
        """
        with self._database.reading() as connection:
            return read_onward(connection, seen, most)

    def one(self, exchange: str, choice: int) -> Stored | None:
        """Return the decision about an exchange with its content, or None. Raises DecisionLogError."""
        with self._database.reading() as connection:
            entry = entry_of(connection, exchange, choice)
        return None if entry is None else _stored(entry)

    def tips(self) -> dict[str, int]:
        """Return the number of the newest entry of each chain. Raises DecisionLogError."""
        with self._database.reading() as connection:
            return newest(connection)

    def new(self, seen: dict[str, int], kinds: Sequence[Kind] = ("decision",)) -> list[Stored]:
        """Return records that came since the last call. Raises DecisionLogError.

        Args:
            seen: what `tips` gave. It is brought up to date.
        """
        with self._database.reading() as connection:
            entries = read_behind(connection, seen)
        for entry in entries:
            seen[entry.chain] = max(entry.seq, seen.get(entry.chain, -1))
        return [_stored(entry) for entry in entries if entry.draft.kind in kinds]

    def verify(self, heads: Sequence[Tip] = ()) -> Report:
        """Check all chains.

        Args:
            heads: tips that an earlier report gave.

        Raises:
            DecisionLogError: the database can't be read.
        """
        report, begun = Report(), _Begun()
        with self._database.reading() as connection:
            roots = list(read_entries(connection, kinds=["genesis", "purge"]))
            checker = Checker(roots, writers(connection), heads)
            for entry in read_entries(connection):
                checker.add(entry)
                report.entries += 1
                report.decisions += entry.draft.kind == "decision"
                begun.add(entry)
        report.breaks = checker.finish()
        report.heads = list(checker.tips.values())
        report.open = [chain for chain in checker.tips if chain not in checker.ended]
        report.unfinished, report.lost = begun.unfinished, begun.lost
        return report


class _Begun:
    """Counts exchanges that began and have no decision, and records that were given up."""

    def __init__(self) -> None:
        self.lost = 0
        self._open: dict[str, int] = {}

    def add(self, entry: Entry) -> None:
        draft = entry.draft
        if draft.kind not in ("start", "decision", "lost"):
            return
        try:
            body = json.loads(draft.body)
            change = {"start": body.get("choices"), "decision": -1, "lost": body.get("records")}[draft.kind]
        except (ValueError, AttributeError):
            return  # the chain says that it is damaged
        if not isinstance(change, int):
            return
        if draft.kind == "lost":
            self.lost += change
        elif draft.exchange is not None:
            left = self._open.pop(draft.exchange, 0) + change
            if left:
                self._open[draft.exchange] = left

    @property
    def unfinished(self) -> int:
        # Below zero: a purge has removed the begin.
        return sum(left for left in self._open.values() if left > 0)


@contextmanager
def open_log(where: str | Path, password_env: str = PASSWORD_VARIABLE) -> Iterator[LogReader]:
    """Open a decision log for reading. A server may write to it meanwhile.

    Raises:
        ConfigError: `where` is no path or known address.
        DecisionLogError: there is no decision log, or it is of another version.
    """
    database = Database(place_of(where, password_env), LOG_SCHEMA)
    database.open(create=False)
    try:
        yield LogReader(database)
    finally:
        database.close()


def read_decisions(where: str | Path) -> list[Decision]:
    """Return all decisions of a log, in the order of time. Raises as `open_log` does."""
    with open_log(where) as log:
        return [msgspec.convert(stored.record, Decision) for stored in log.records()]


def purge_log(
    where: str | Path,
    before: str,
    writer: str,
    password_env: str = PASSWORD_VARIABLE,
    *,
    shrink: bool = False,
) -> int:
    """Remove records that are older than a time, and return how many. A server may write meanwhile.

    Args:
        before: a time as records have it.
        writer: name under which the purge is recorded.
        shrink: whether to give the room back to the file system. The database is locked meanwhile.

    Raises:
        ConfigError: `where` is no path or known address.
        DecisionLogError: nothing is removed, or the room is not given back.
    """
    database = Database(place_of(where, password_env), LOG_SCHEMA)
    appender = Appender(database, writer)
    try:
        appender.open(create=False)
        count = appender.purge(before, "command")
        appender.end()
        if shrink:
            database.shrink("entries")
    finally:
        database.close()
    return count


def is_database(path: Path) -> bool:
    """Whether a file is one of SQLite."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def check_log(where: str | Path, password_env: str = PASSWORD_VARIABLE) -> None:
    """See whether a log can be written, and make what is missing. Nothing is recorded.

    Raises:
        ConfigError: `where` is no path or known address.
        DecisionLogError: it can't be written.
    """
    place = place_of(where, password_env)
    database = Database(place, LOG_SCHEMA)
    try:
        database.open()
    finally:
        database.close()


def _stored(entry: Entry) -> Stored:
    draft = entry.draft
    return Stored(draft.kind, draft.at, json.loads(draft.body), draft.content, draft.content_mode)
