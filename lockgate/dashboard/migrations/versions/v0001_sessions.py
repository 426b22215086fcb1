"""The first schema: sessions, and attempts to sign in that failed."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "dashboard_sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("begun", sa.Double, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
    )
    op.create_table(
        "dashboard_attempts",
        sa.Column("attempt", sa.String(32), primary_key=True),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("dashboard_attempts_client", "dashboard_attempts", ["client", "at"])
