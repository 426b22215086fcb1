"""One process's chain in a database: it is begun, grows, and goes on after a failure."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection

from lockgate._version import __version__
from lockgate.databases import Database
from lockgate.decisions._chain import Draft, Tip, begin, extend, new_chain
from lockgate.decisions._purge import purge, purged_up_to
from lockgate.decisions._record import timestamp
from lockgate.decisions._store import add_chain, add_entries, missing, newest_chain, tip_of
from lockgate.errors import DecisionLogError

MOVED = "the file was moved or removed; bring it back, or send SIGHUP to begin a new one"


class Appender:
    """Adds entries to a chain of its own. One thread uses it at a time.

    A commit that fails may have happened all the same, if only its answer was lost. So the entries that
    follow a failure must begin with those that failed. Those that are there already are not added again.

    Args:
        writer: name of the writer.

    Attributes:
        rewound: how often the database had lost entries, for example because a backup was put in its place.
    """

    def __init__(self, database: Database, writer: str) -> None:
        self.database = database
        self.rewound = 0
        self._writer = writer
        self._tip: Tip | None = None
        self._unsure = False

    def open(self, *, create: bool = True) -> None:
        """Open the database and begin a chain, or go on with the one that was begun.

        Args:
            create: whether to make what is missing. If the chain was begun in another database, a new one
                begins that names it.

        Raises:
            DecisionLogError: the database can't be used.
        """
        self.database.open(create=create)
        with self.database.writing() as connection:
            old = self._tip
            if old is not None and tip_of(connection, old.chain) is not None:
                self._unsure = True
                return
            before = newest_chain(connection, self._writer) if old is None else old
            tip = self._begin(connection, before, moved=old is not None)
        self._tip, self._unsure = tip, False

    def append(self, drafts: Sequence[Draft]) -> None:
        """Add entries in one transaction. Without entries, see whether the database can be written.

        Raises:
            DecisionLogError: they may not be there.
        """
        if self._tip is None:
            raise DecisionLogError(f"decision log {self.database.place}: not open")
        self._check_place()
        tip, rewound = self._tip, self.rewound
        try:
            with self.database.writing() as connection:
                if self._unsure:
                    tip, drafts = self._settle(connection, tip, drafts)
                if drafts:
                    entries = extend(tip, drafts)
                    add_entries(connection, entries)
                    tip = entries[-1].tip
            self._check_place()
        except BaseException:
            self._unsure, self.rewound = True, rewound
            raise
        self._tip, self._unsure = tip, False

    def append_missing(self, drafts: Sequence[Draft]) -> None:
        """Add those of some entries whose exchange has no such entry yet. Raises DecisionLogError."""
        with self.database.reading() as connection:
            wanted = missing(connection, drafts)
        if wanted:
            self.append(wanted)

    def purge(self, before: str, reason: str, most: int | None = None) -> int:
        """Remove entries older than a time, and record that. Return how many.

        Args:
            most: entries to remove at most.

        Raises:
            DecisionLogError: nothing is removed.
        """
        self.append(())
        tip = self._tip
        if tip is None:
            raise DecisionLogError(f"decision log {self.database.place}: not open")
        try:
            with self.database.writing() as connection:
                count, entry = purge(connection, tip, before, timestamp(), reason, most)
        except BaseException:
            self._unsure = True
            raise
        if entry is not None:
            self._tip = entry.tip
        return count

    def end(self, **facts: int) -> None:
        """Say that the chain ends here. Raises DecisionLogError."""
        self.append([Draft("end", timestamp(), json.dumps({"time": timestamp(), **facts}))])

    def close(self) -> None:
        """Close the database. The chain can go on after `open`."""
        self.database.close()

    def _check_place(self) -> None:
        if self.database.moved:
            self.database.settle_moved()
            raise DecisionLogError(f"decision log {self.database.place}: {MOVED}")

    def _begin(self, connection: Connection, before: Tip | None, *, moved: bool) -> Tip:
        genesis = begin(new_chain(), timestamp(), self._writer, __version__, before, moved=moved)
        add_chain(connection, genesis, self._writer)
        return genesis.tip

    def _settle(
        self, connection: Connection, tip: Tip, drafts: Sequence[Draft]
    ) -> tuple[Tip, Sequence[Draft]]:
        """Find out what the database has. Return the tip to go on from, and the drafts that it lacks."""
        found = tip_of(connection, tip.chain)
        if found == tip:
            return tip, drafts
        if found is None and purged_up_to(connection, tip.chain) >= tip.seq:
            return tip, drafts
        if found is not None and found.seq > tip.seq:
            more = found.seq - tip.seq
            entries = extend(tip, drafts[:more])
            if len(entries) == more and entries[-1].tip == found:
                return found, drafts[more:]
        else:
            self.rewound += 1
        # The new chain names the entry that is missing or differs, so that a check finds it.
        return self._begin(connection, tip, moved=False), missing(connection, drafts)
