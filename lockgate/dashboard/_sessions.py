"""Sessions: rows in the operations database, each behind a random token that only the browser has."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from sqlalchemy import delete, func, insert, select, update

from lockgate.dashboard._schema import ATTEMPTS, DASHBOARD_SCHEMA, SESSIONS
from lockgate.databases import Database, Place

LIFE = 12 * 3600.0
IDLE = 30 * 60.0
# Failed attempts to sign in that a client's address may make in this many seconds.
MOST_ATTEMPTS = 10
ATTEMPT_SECONDS = 15 * 60.0
# `seen` is written this often at most: a reader should not write at each request.
_SEEN_SECONDS = 30.0
_TOKEN_BYTES = 32


class Sessions:
    """The sessions of all who are signed in. Servers that share the database share them.

    Args:
        place: the operations database.
        clock: seconds since 1970.
    """

    def __init__(self, place: Place, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(place, DASHBOARD_SCHEMA)
        self._clock = clock

    def open(self) -> None:
        """Connect, and make the tables if they are missing. Raises OperationsError."""
        self._database.open()

    def close(self) -> None:
        self._database.close()

    def begin(self, tenant: str, key: str) -> str:
        """Begin a session of a tenant's key, and return its token. Old sessions are removed.

        Raises:
            OperationsError: the database can't be written.
        """
        token, now = secrets.token_urlsafe(_TOKEN_BYTES), self._clock()
        with self._database.writing() as connection:
            over = (SESSIONS.c.begun < now - LIFE) | (SESSIONS.c.seen < now - IDLE)
            connection.execute(delete(SESSIONS).where(over))
            row = {"hash": _digest(token), "tenant": tenant, "key": key, "begun": now, "seen": now}
            connection.execute(insert(SESSIONS), row)
        return token

    def find(self, token: str, *, awake: bool = True) -> tuple[str, str] | None:
        """Return tenant and key of a session, or None if it is over or never was. Raises OperationsError.

        Args:
            awake: whether a person acts. A page that only looks for news does not keep its session alive.
        """
        digest, now = _digest(token), self._clock()
        with self._database.reading() as connection:
            row = connection.execute(select(SESSIONS).where(SESSIONS.c.hash == digest)).first()
        if row is None or row.begun <= now - LIFE or row.seen <= now - IDLE:
            return None
        if awake and row.seen < now - _SEEN_SECONDS:
            with self._database.writing() as connection:
                connection.execute(update(SESSIONS).where(SESSIONS.c.hash == digest).values(seen=now))
        return row.tenant, row.key

    def end(self, token: str) -> None:
        """End a session. Raises OperationsError."""
        with self._database.writing() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.hash == _digest(token)))

    def end_key(self, key: str) -> None:
        """End all sessions of a key. Raises OperationsError."""
        with self._database.writing() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.key == key))

    def blocked(self, client: str) -> bool:
        """Whether an address has failed to sign in too often. Raises OperationsError."""
        recent = self._clock() - ATTEMPT_SECONDS
        wanted = select(func.count()).where(ATTEMPTS.c.client == client, ATTEMPTS.c.at > recent)
        with self._database.reading() as connection:
            return int(connection.execute(wanted).scalar_one()) >= MOST_ATTEMPTS

    def note_failure(self, client: str) -> None:
        """Note that an address has failed to sign in. Raises OperationsError."""
        now = self._clock()
        with self._database.writing() as connection:
            connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.at < now - ATTEMPT_SECONDS))
            connection.execute(
                insert(ATTEMPTS), {"attempt": secrets.token_hex(16), "client": client, "at": now}
            )


def csrf_of(token: str) -> str:
    """Return the token that forms of a session must carry. Another site can't read or guess it."""
    return hmac.new(token.encode(), b"lockgate dashboard form", hashlib.sha256).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
