"""Where a decision log is: a file of SQLite or a database of PostgreSQL."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from lockgate.errors import ConfigError

PASSWORD_VARIABLE = "LOCKGATE_LOG_PASSWORD"  # noqa: S105 - a name, no password


@dataclass(frozen=True, slots=True)
class Place:
    """Where a decision log is. As text it never holds a password.

    Attributes:
        path: the file; None for a database on a server.
        url: SQLAlchemy's address of the database.
    """

    path: Path | None
    url: URL = field(repr=False)

    @classmethod
    def of(cls, where: str | Path, password_env: str = PASSWORD_VARIABLE) -> Self:
        """Read a path, or an address such as postgresql://user@host/database.

        Args:
            password_env: environment variable that may hold the password.

        Raises:
            ConfigError: the address is of no known kind or holds a password, or the name is that of lines.
        """
        if isinstance(where, Path) or "://" not in where:
            path = Path(where)
            if path.suffix == ".jsonl":
                raise ConfigError(
                    f"decision log {path}: the log is a database now; give a name such as decisions.db "
                    "(`lockgate log export` writes JSON lines)"
                )
            return cls(path, URL.create("sqlite+pysqlite", database=str(path)))
        try:
            url = make_url(where)
        except (ArgumentError, ValueError):
            raise ConfigError("decision log: expected a path, or postgresql://USER@HOST/DATABASE") from None
        kind = url.drivername.partition("+")[0]
        if kind == "sqlite":
            raise ConfigError("decision log: for SQLite give the path of the file, without sqlite://")
        if kind not in ("postgresql", "postgres"):
            raise ConfigError(
                f"decision log: {kind}:// is not supported; give a path, or postgresql://USER@HOST/DATABASE"
            )
        # Other users of a machine see command lines, and config files are copied about.
        if url.password is not None or "password" in url.query:
            raise ConfigError(
                f"decision log: the address holds a password; put it into the variable {password_env}"
            )
        password = os.environ.get(password_env) or None
        return cls(None, url.set(drivername="postgresql+psycopg", password=password))

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        url = self.url
        plain = URL.create("postgresql", url.username, host=url.host, port=url.port, database=url.database)
        return plain.render_as_string()
