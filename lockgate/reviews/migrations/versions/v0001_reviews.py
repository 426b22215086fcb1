"""The first schema: the steps of reviewers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "review_steps",
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("choice", sa.Integer, nullable=False),
        sa.Column("reviewer", sa.Text, nullable=False),
        sa.Column("picked", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16)),
        sa.Column("category", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("seconds", sa.Float),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("undone", sa.String(32)),
    )
    standing = sa.text("undone IS NULL")
    op.create_index(
        "review_steps_standing",
        "review_steps",
        ["reviewer", "exchange", "choice"],
        unique=True,
        sqlite_where=standing,
        postgresql_where=standing,
    )
    op.create_index("review_steps_exchange", "review_steps", ["exchange", "choice"])
