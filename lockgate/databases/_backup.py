"""Copies of databases while servers write to them."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lockgate.databases._database import Database
from lockgate.databases._place import Place
from lockgate.databases._schema import Schema
from lockgate.durable import atomic_path
from lockgate.errors import BackupError

Report = Callable[[int, int], None]
Check = Callable[[Path], None]
# Pages between reports. Meanwhile Python sees no Ctrl-C.
_PAGES = 2048
_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of a database.

    Attributes:
        schemas: what was found in it, with the revision of each.
        size: length of the file in bytes.
    """

    schemas: dict[str, str]
    size: int


def back_up(
    place: Place,
    target: Path,
    schemas: Sequence[Schema],
    *,
    report: Report | None = None,
    check: Check | None = None,
) -> Backup:
    """Copy a database as it is at one moment. Servers go on writing to it.

    A file of SQLite becomes a file of SQLite. A database of PostgreSQL becomes an archive of `pg_dump` for
    `pg_restore`, with the tables of `schemas` alone.

    Args:
        target: the file. It is there as a whole at the end, readable by its owner only, or not at all.
        schemas: what the database may hold.
        report: called with the pages of a file that are copied, and all of them.
        check: called with a file of SQLite before it gets its name. If it raises, there is no copy.

    Raises:
        BackupError: the database can't be read, or holds none of the schemas, or the copy is damaged.
        ExchangeError: the target's folder does not exist.
    """
    with atomic_path(target) as part:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if place.path is None:
            found = _dump(place, part, schemas)
        else:
            found = _copy(place.path, part, schemas, report)
            if check is not None:
                check(part)
        return Backup(found, part.stat().st_size)


def _copy(source: Path, target: Path, schemas: Sequence[Schema], report: Report | None) -> dict[str, str]:
    if not source.is_file():
        raise BackupError(f"{source}: no such file")
    try:
        with closing(_opened(source)) as original, closing(_opened(target)) as copy:
            # While this transaction is open, the copy does not begin again when others write.
            original.execute("BEGIN")
            original.execute("SELECT count(*) FROM sqlite_master").fetchone()
            original.backup(copy, pages=_PAGES, progress=_progress(report))
            # One file, without a write-ahead log beside it.
            copy.execute("PRAGMA journal_mode=DELETE")
            [state] = copy.execute("PRAGMA integrity_check(1)").fetchone()
            if state != "ok":
                raise BackupError(f"{source}: the copy is damaged, and so is the database: {state}")
            return _known(schemas, lambda table: _revision(copy, table), str(source))
    except sqlite3.Error as error:
        raise BackupError(f"{source}: {error}") from None


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS, isolation_level=None
    )


def _progress(report: Report | None) -> Callable[[int, int, int], None] | None:
    return None if report is None else lambda status, remaining, total: report(total - remaining, total)


def _revision(connection: sqlite3.Connection, table: str) -> str | None:
    named = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
    if named.fetchone() is None:
        return None
    row = connection.execute(f'SELECT version_num FROM "{table}"').fetchone()  # noqa: S608 - a name of ours
    return None if row is None else str(row[0])


def _dump(place: Place, target: Path, schemas: Sequence[Schema]) -> dict[str, str]:
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupError(f"{place}: pg_dump is not installed; it comes with PostgreSQL's client programs")
    revisions = Database(place, schemas[0]).revisions([schema.version_table for schema in schemas])
    found = _known(schemas, revisions.get, str(place))
    tables = [
        name for schema in schemas if schema.what in found for name in (*schema.tables, schema.version_table)
    ]
    url = place.url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    password = place.url.password
    done = subprocess.run(
        [program, "--format=custom", "--no-owner", "--no-password", f"--file={target}",
         *(f"--table={name}" for name in tables), f"--dbname={url}"],
        env={**os.environ, **({} if password is None else {"PGPASSWORD": password})},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[0]
        raise BackupError(f"{place}: {reason}")
    return found


def _known(schemas: Sequence[Schema], revision: Callable[[str], str | None], name: str) -> dict[str, str]:
    found = {schema.what: revision(schema.version_table) for schema in schemas}
    known = {what: number for what, number in found.items() if number is not None}
    if not known:
        raise BackupError(f"{name}: is no database of Lockgate: it holds no {' or '.join(found)}")
    return known
