"""The tables of the decision log. `migrations` makes them in a database; a test compares both."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

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
