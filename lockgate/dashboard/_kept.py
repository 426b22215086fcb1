"""What the dashboard keeps beside sessions: states of tests, a secret, and the names of reviewers."""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress

from sqlalchemy import Connection, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from lockgate.dashboard._schema import DASHBOARD_SCHEMA, REVIEWERS, SECRETS, WATCHES
from lockgate.databases import Database, Place

_SECRET_BYTES = 32
_PICKS = "picks"


class Kept:
    """Rows in the operations database. Servers that share it share them. Any thread may call it.

    Args:
        place: the operations database.
    """

    def __init__(self, place: Place) -> None:
        self._database = Database(place, DASHBOARD_SCHEMA)
        self._secret: bytes | None = None

    def open(self) -> None:
        """Connect, and make the tables if they are missing. Raises OperationsError."""
        self._database.open()

    def close(self) -> None:
        self._database.close()

    def state(self, guard: str, scope: str) -> tuple[int, bytes | None]:
        """Return version and state of a test; 0 and None if it has not begun. Raises OperationsError."""
        wanted = select(WATCHES.c.version, WATCHES.c.state).where(
            WATCHES.c.guard == guard, WATCHES.c.scope == scope
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).first()
        return (0, None) if row is None else (row.version, bytes(row.state))

    def keep_state(self, guard: str, scope: str, version: int, state: bytes) -> bool:
        """Keep the state that follows a version. Return whether it is kept: another server may be quicker.

        Raises:
            OperationsError: the database can't be written.
        """
        own = (WATCHES.c.guard == guard, WATCHES.c.scope == scope)
        with self._database.writing() as connection:
            if version == 0:
                row = {"guard": guard, "scope": scope, "version": 1, "state": state}
                return _is_new(connection, WATCHES, row)
            changed = update(WATCHES).where(*own, WATCHES.c.version == version)
            return connection.execute(changed.values(version=version + 1, state=state)).rowcount == 1

    def secret(self) -> bytes:
        """Return the secret with which picks of the review queue are signed. Raises OperationsError."""
        if self._secret is None:
            wanted = select(SECRETS.c.secret).where(SECRETS.c.name == _PICKS)
            with self._database.writing() as connection:
                row = {"name": _PICKS, "secret": secrets.token_bytes(_SECRET_BYTES)}
                if connection.execute(wanted).first() is None:
                    _is_new(connection, SECRETS, row)
                self._secret = bytes(connection.execute(wanted).scalar_one())
        return self._secret

    def reviewer(self, origin: str, name: str, may_have: Callable[[str], bool]) -> str:
        """Return the name under which somebody reviews. The first time, it is chosen for ever.

        Args:
            origin: public id of the first of the keys that were rotated into each other.
            name: the name that is wanted. If another has it, a number is added.
            may_have: whether a name that nobody is known to have may be given to this one.

        Raises:
            OperationsError: the database can't be used.
        """
        wanted = select(REVIEWERS.c.reviewer).where(REVIEWERS.c.origin == origin)
        with self._database.reading() as connection:
            known = connection.execute(wanted).scalar()
        if known is not None:
            return str(known)
        with self._database.writing() as connection:
            number = 1
            while True:
                candidate = name if number == 1 else f"{name} ({number})"
                row = {"origin": origin, "reviewer": candidate}
                if may_have(candidate) and _is_new(connection, REVIEWERS, row):
                    return candidate
                # Another server may just have chosen for the same one.
                known = connection.execute(wanted).scalar()
                if known is not None:
                    return str(known)
                number += 1


def _is_new(connection: Connection, table: Table, row: Mapping[str, object]) -> bool:
    """Add a row unless there is one with its key."""
    with suppress(IntegrityError), connection.begin_nested():
        connection.execute(insert(table), row)
        return True
    return False
