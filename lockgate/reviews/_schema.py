"""The tables of reviews. `migrations` makes them in a database; a test compares both."""

from pathlib import Path

from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text, text

from lockgate.databases import Schema
from lockgate.errors import ReviewError

REVIEWS_SCHEMA = Schema(
    what="review database",
    error=ReviewError,
    migrations=Path(__file__).parent / "migrations",
    version_table="lockgate_reviews_version",
    tables=("review_steps",),
    lock=0x10C6A7F,
)
METADATA = MetaData()

# A step of a reviewer. What is undone stays, so the table says what was said when.
STEPS = Table(
    "review_steps",
    METADATA,
    Column("step", Integer, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("choice", Integer, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("picked", String(16), nullable=False),
    Column("verdict", String(16)),
    Column("category", Text),
    Column("note", Text),
    Column("seconds", Float),
    Column("at", String(32), nullable=False),
    Column("undone", String(32)),
    # A reviewer has one standing step for an exchange.
    Index(
        "review_steps_standing",
        "reviewer",
        "exchange",
        "choice",
        unique=True,
        sqlite_where=text("undone IS NULL"),
        postgresql_where=text("undone IS NULL"),
    ),
    Index("review_steps_exchange", "exchange", "choice"),
)
