"""The tables of the dashboard. `migrations` makes them in a database; a test compares both.

Times are seconds since 1970 in UTC.
"""

from pathlib import Path

from sqlalchemy import Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, Text

from lockgate.databases import Schema
from lockgate.errors import OperationsError

DASHBOARD_SCHEMA = Schema(
    what="the dashboard's sessions",
    error=OperationsError,
    migrations=Path(__file__).parent / "migrations",
    version_table="lockgate_dashboard_version",
    tables=(
        "dashboard_sessions",
        "dashboard_attempts",
        "dashboard_watches",
        "dashboard_secrets",
        "dashboard_reviewers",
    ),
    lock=0x10C6A80,
)
METADATA = MetaData()

SESSIONS = Table(
    "dashboard_sessions",
    METADATA,
    # A stolen database opens no session: it holds hashes.
    Column("hash", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("begun", Double, nullable=False),
    Column("seen", Double, nullable=False),
)

# Attempts to sign in that failed, by the client's address.
ATTEMPTS = Table(
    "dashboard_attempts",
    METADATA,
    Column("attempt", String(32), primary_key=True),
    Column("client", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index("dashboard_attempts_client", "client", "at"),
)

# What the tests of drift have met: a row for each guard and each tenant that may see it; "*" stands for all.
WATCHES = Table(
    "dashboard_watches",
    METADATA,
    Column("guard", String(64), primary_key=True),
    Column("scope", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

# Secrets that all servers of the database share.
SECRETS = Table(
    "dashboard_secrets",
    METADATA,
    Column("name", String(16), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
)

# Under which name a key and those that were rotated from it review, by the public id of the first of them.
REVIEWERS = Table(
    "dashboard_reviewers",
    METADATA,
    Column("origin", String(16), primary_key=True),
    Column("reviewer", Text, nullable=False, unique=True),
)
