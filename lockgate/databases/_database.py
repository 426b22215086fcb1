"""Connections to a database."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from lockgate import _extras
from lockgate.databases._migrate import check_schema, migrate
from lockgate.databases._place import Place
from lockgate.databases._schema import Schema
from lockgate.errors import LockgateError

# Seconds that a statement waits for a lock or a server before it fails. The writer tries again.
WAIT_SECONDS = 5.0


class Database:
    """A database with a schema. Connections are made when they are needed.

    All faults are raised as the schema's own error. Their text has a reason, and neither a statement nor its
    values.

    Args:
        wait: seconds that a statement may wait for a lock or for the server.
    """

    def __init__(self, place: Place, schema: Schema, *, wait: float = WAIT_SECONDS) -> None:
        self.place = place
        self.schema = schema
        self._wait = wait
        self._engine: Engine | None = None
        self._identity: tuple[int, int] | None = None

    def open(self, *, create: bool = True) -> None:
        """Connect, and bring the schema to this version.

        Args:
            create: whether to make the database's file and its tables, or to bring them to this version.
                Otherwise they must be there as this version needs them.

        Raises:
            LockgateError: the database can't be used. It is the schema's own error and says why.
        """
        path = self.place.path
        if path is not None:
            if create:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _check_leftovers(path, self.schema)
                    # SQLite gives its other files the mode of this one.
                    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                except OSError as error:
                    raise self._fault(error.strerror or "not writable") from error
            elif not path.is_file():
                raise self._fault("no such file")
        self._engine = self._connect()
        try:
            with self.writing() if create else self.reading() as connection:
                prepare = migrate if create else check_schema
                prepare(connection, self.schema, str(self.place))
        except BaseException:
            self.close()
            raise
        self._identity = self._found()

    def revisions(self, tables: Sequence[str]) -> dict[str, str]:
        """Return the revisions in those of some version tables that are there. Nothing is changed.

        Raises:
            LockgateError: the database can't be read. It is the schema's own error.
        """
        engine = self._connect()
        try:
            with self._translated(), engine.connect() as connection:
                there = set(sqlalchemy.inspect(connection).get_table_names())
                rows = {
                    name: connection.execute(
                        sqlalchemy.select(sqlalchemy.text("version_num")).select_from(sqlalchemy.table(name))
                    ).scalar()
                    for name in tables
                    if name in there
                }
        finally:
            engine.dispose()
        return {name: str(revision) for name, revision in rows.items() if revision is not None}

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection in a transaction that is committed at the end of the block."""
        with self._translated(), self._open_engine().connect() as connection:
            if self.place.path is not None:
                connection = connection.execution_options(lockgate_begin="BEGIN IMMEDIATE")
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database."""
        with self._translated(), self._open_engine().connect() as connection:
            if self.place.path is None:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @property
    def moved(self) -> bool:
        """Whether the file at the path is no longer the one that is open."""
        return self._identity is not None and self._found() != self._identity

    def settle_moved(self) -> None:
        """Complete a file that was moved away: its newest records are in another file of SQLite until then.

        Without that, SQLite would also add them to a file that is put in its place.
        """
        with suppress(SQLAlchemyError), self._open_engine().connect() as connection:
            free = connection.execution_options(isolation_level="AUTOCOMMIT", lockgate_begin="")
            free.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def is_open(self) -> bool:
        return self._engine is not None

    def close(self) -> None:
        """Close all connections. The database can be opened again."""
        if self._engine is not None and self.moved:
            self.settle_moved()
        engine, self._engine, self._identity = self._engine, None, None
        if engine is not None:
            engine.dispose()

    def shrink(self, table: str) -> None:
        """Give the room of removed rows back to the file system, as far as the database can.

        Args:
            table: what a database on a server cleans up.
        """
        with self._translated(), self._open_engine().connect() as connection:
            free = connection.execution_options(isolation_level="AUTOCOMMIT", lockgate_begin="")
            if self.place.path is None:
                free.exec_driver_sql(f"VACUUM {table}")
            else:
                free.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                free.exec_driver_sql("VACUUM")

    def _found(self) -> tuple[int, int] | None:
        if self.place.path is None:
            return None
        try:
            found = self.place.path.stat()
        except OSError:
            return (0, 0)
        return found.st_dev, found.st_ino

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise self._fault("not open")
        return self._engine

    def _connect(self) -> Engine:
        if self.place.path is None:
            return self._connect_server()
        # The file may vanish, and must not come back empty behind the writer's back.
        database = f"file:{_quoted(str(self.place.path.absolute()))}?mode=rw"
        engine = sqlalchemy.create_engine(
            "sqlite+pysqlite://",
            creator=lambda: sqlite3.connect(
                database, uri=True, timeout=self._wait, check_same_thread=False, isolation_level=None
            ),
            poolclass=sqlalchemy.QueuePool,
            hide_parameters=True,
        )
        event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, self._wait))
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _connect_server(self) -> Engine:
        _extras.need("psycopg", extra="postgres", feature="a database of PostgreSQL")
        wait = round(1000 * self._wait)
        # A server that is gone without a word must not hold the writer for the kernel's quarter of an hour.
        options = {
            "connect_timeout": max(2, round(self._wait)),
            "application_name": "lockgate",
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": max(10_000, 2 * wait),
            "options": f"-c statement_timeout={60 * wait} -c lock_timeout={wait} -c TimeZone=UTC",
        }
        given = dict(self.place.url.query)
        options = {name: value for name, value in options.items() if name not in given}
        return sqlalchemy.create_engine(
            self.place.url, connect_args=options, hide_parameters=True, pool_pre_ping=True
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._fault(self._reason(error)) from None
        except SQLAlchemyError as error:
            raise self._fault(type(error).__name__) from None

    def _fault(self, reason: str) -> LockgateError:
        return self.schema.error(f"{self.schema.what} {self.place}: {reason}")

    def _reason(self, error: DBAPIError) -> str:
        """Return the first line of the database's message. Further lines of PostgreSQL may hold values."""
        lines = str(error.orig).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        return f"{reason}; {self.schema.not_a_database}" if "not a database" in reason else reason


def _check_leftovers(path: Path, schema: Schema) -> None:
    """Refuse to make a database beside the write-ahead log of one that is gone. It would take that log."""
    if path.exists():
        return
    for ending in ("-wal", "-shm"):
        left = path.with_name(path.name + ending)
        if ending == "-wal" and left.exists() and left.stat().st_size:
            raise schema.error(
                f"{schema.what} {path}: is gone, but {left.name} still has records of it; move that file to "
                "where the database is now, under its name and -wal"
            )
        left.unlink(missing_ok=True)


def _prepare_sqlite(connection: sqlite3.Connection, wait: float) -> None:
    cursor = connection.cursor()
    _use_wal(cursor, wait)
    # A commit is on the disk when it returns, also if the machine loses power.
    cursor.execute("PRAGMA synchronous=FULL")
    # What a purge removes is overwritten.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor, wait: float) -> None:
    """Let a database keep a write-ahead log. While others open it, SQLite refuses that without waiting."""
    until = time.monotonic() + wait
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    # Python's own module would begin late, with a lock that can't be raised later.
    begin = connection.get_execution_options().get("lockgate_begin", "BEGIN")
    if begin:
        connection.exec_driver_sql(begin)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
