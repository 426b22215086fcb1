"""Where an operations database is, and its tables. `migrations` makes them; a test compares both.

Times are seconds since 1970 in UTC, which all replicas and both kinds of databases compare alike.
"""

from pathlib import Path

from sqlalchemy import Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

from lockgate.databases import Place, Schema
from lockgate.errors import OperationsError

PASSWORD_VARIABLE = "LOCKGATE_OPERATIONS_PASSWORD"  # noqa: S105 - a name, no password
OPERATIONS_SCHEMA = Schema(
    what="operations database",
    error=OperationsError,
    migrations=Path(__file__).parent / "migrations",
    version_table="lockgate_tenants_version",
    tables=("tenants", "keys", "buckets", "leases", "alerts"),
    lock=0x7E4A475,
)


def place_of(where: str | Path, password_env: str = PASSWORD_VARIABLE) -> Place:
    """Read where an operations database is: a path, or an address of PostgreSQL.

    Raises:
        ConfigError: the address is of no known kind or holds a password.
    """
    return Place.of(where, OPERATIONS_SCHEMA.what, password_env)


METADATA = MetaData()

TENANTS = Table(
    "tenants",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("created", Double, nullable=False),
    # `Settings` as JSON.
    Column("settings", Text, nullable=False),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("prefix", String(16), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.name"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("last_used", Double),
    Column("locked_until", Double),
    # The prefix of the first of the keys that were rotated into each other.
    Column("origin", String(16)),
    Index("keys_tenant", "tenant", "name"),
)

# Token buckets that replicas share: `level` tokens were in it at the time `at`.
BUCKETS = Table(
    "buckets",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("level", Double, nullable=False),
    Column("at", Double, nullable=False),
)

# Slots for requests at a time, lent to a replica. What it does not renew comes back, some time after another
# replica has missed it at `late_since`.
LEASES = Table(
    "leases",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("replica", String(64), primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("expires", Double, nullable=False),
    Column("late_since", Double),
)

ALERTS = Table(
    "alerts",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("at", Double, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("key", String(64), nullable=False),
    Column("signal", String(16), nullable=False),
    Column("value", Double, nullable=False),
    Column("bound", Double, nullable=False),
    Column("exchanges", Integer, nullable=False),
    Column("locked_until", Double),
    Column("acknowledged", Double),
    Column("acknowledged_by", Text),
    Index("alerts_at", "at"),
)
