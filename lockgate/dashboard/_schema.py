"""The tables of sessions. `migrations` makes them in a database; a test compares both.

Times are seconds since 1970 in UTC.
"""

from pathlib import Path

from sqlalchemy import Column, Double, Index, MetaData, String, Table, Text

from lockgate.databases import Schema
from lockgate.errors import OperationsError

DASHBOARD_SCHEMA = Schema(
    what="the dashboard's sessions",
    error=OperationsError,
    migrations=Path(__file__).parent / "migrations",
    version_table="lockgate_dashboard_version",
    tables=("dashboard_sessions", "dashboard_attempts"),
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
