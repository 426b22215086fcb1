"""What a database holds, as far as opening it needs to know."""

from dataclasses import dataclass
from pathlib import Path

from lockgate.errors import LockgateError


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables that belong together. Several schemas may share a database.

    Attributes:
        what: what errors call it, such as "decision log".
        error: what its faults are raised as.
        migrations: Alembic's folder, with the way from every released schema to this one.
        version_table: where the database keeps its revision.
        tables: names of the tables, without the version table.
        lock: number of the lock under which servers take turns to migrate it. Each schema has its own.
        not_a_database: what to do if the file is something else.
    """

    what: str
    error: type[LockgateError]
    migrations: Path
    version_table: str
    tables: tuple[str, ...]
    lock: int
    not_a_database: str = "give a path where no file is"
