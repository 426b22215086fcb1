"""Where a decision log is, and its tables. `migrations` makes them in a database; a test compares both."""

from pathlib import Path

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

from lockgate.databases import Place, Schema
from lockgate.errors import ConfigError, DecisionLogError

PASSWORD_VARIABLE = "LOCKGATE_LOG_PASSWORD"  # noqa: S105 - a name, no password
LOG_SCHEMA = Schema(
    what="decision log",
    error=DecisionLogError,
    migrations=Path(__file__).parent / "migrations",
    version_table="lockgate_log_version",
    tables=("chains", "entries"),
    lock=0x10C6A7E,
    not_a_database="for a new decision log give a path where no file is (lockgate replay reads old JSON "
    "lines)",
)


def place_of(where: str | Path, password_env: str = PASSWORD_VARIABLE) -> Place:
    """Read where a log is: a path, or an address of PostgreSQL.

    Raises:
        ConfigError: the address is of no known kind or holds a password, or the name is that of lines.
    """
    if Path(where).suffix == ".jsonl":
        raise ConfigError(
            f"decision log {where}: the log is a database now; give a name such as decisions.db "
            "(`lockgate log export` writes JSON lines)"
        )
    return Place.of(where, LOG_SCHEMA.what, password_env)


METADATA = MetaData()

# Who writes a chain. It stays while entries of the chain are there, also when the genesis has been purged.
CHAINS = Table(
    "chains",
    METADATA,
    Column("chain", String(64), primary_key=True),
    Column("writer", Text, nullable=False),
    Column("begun", String(32), nullable=False),
)

ENTRIES = Table(
    "entries",
    METADATA,
    Column("chain", String(64), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("at", String(32), nullable=False),
    Column("exchange", Text),
    Column("choice", Integer),
    Column("body", Text, nullable=False),
    Column("content_mode", String(16)),
    Column("content", LargeBinary),
    Column("hash", String(64), nullable=False),
    Index("entries_at", "at"),
    Index("entries_exchange", "exchange", "kind", "choice"),
    Index("entries_kind", "kind"),
)
