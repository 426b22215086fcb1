"""The first schema: chains and their entries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "chains",
        sa.Column("chain", sa.String(64), primary_key=True),
        sa.Column("writer", sa.Text, nullable=False),
        sa.Column("begun", sa.String(32), nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("chain", sa.String(64), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("exchange", sa.Text),
        sa.Column("choice", sa.Integer),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("content_mode", sa.String(16)),
        sa.Column("content", sa.LargeBinary),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("entries_at", "entries", ["at"])
    op.create_index("entries_exchange", "entries", ["exchange", "kind", "choice"])
    op.create_index("entries_kind", "entries", ["kind"])
