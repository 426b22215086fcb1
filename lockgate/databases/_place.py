"""Where a database is: a file of SQLite or a database on a server of PostgreSQL."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from lockgate.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is. As text it never holds a password.

    Attributes:
        path: the file; None for a database on a server.
        url: SQLAlchemy's address of the database.
    """

    path: Path | None
    url: URL = field(repr=False)

    @classmethod
    def of(cls, where: str | Path, what: str, password_env: str) -> Self:
        """Read a path, or an address such as postgresql://user@host/database.

        Args:
            what: what the database is, for errors.
            password_env: environment variable that may hold the password.

        Raises:
            ConfigError: the address is of no known kind or holds a password.
        """
        if isinstance(where, Path) or "://" not in where:
            path = Path(where)
            return cls(path, URL.create("sqlite+pysqlite", database=str(path)))
        try:
            url = make_url(where)
        except (ArgumentError, ValueError):
            raise ConfigError(f"{what}: expected a path, or postgresql://USER@HOST/DATABASE") from None
        kind = url.drivername.partition("+")[0]
        if kind == "sqlite":
            raise ConfigError(f"{what}: for SQLite give the path of the file, without sqlite://")
        if kind not in ("postgresql", "postgres"):
            raise ConfigError(
                f"{what}: {kind}:// is not supported; give a path, or postgresql://USER@HOST/DATABASE"
            )
        # Other users of a machine see command lines, and config files are copied about.
        if url.password is not None or "password" in url.query:
            raise ConfigError(
                f"{what}: the address holds a password; put it into the variable {password_env}"
            )
        password = os.environ.get(password_env) or None
        return cls(None, url.set(drivername="postgresql+psycopg", password=password))

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        url = self.url
        plain = URL.create("postgresql", url.username, host=url.host, port=url.port, database=url.database)
        return plain.render_as_string()
