"""Tests of drift, secrets that servers share, and the names of reviewers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "dashboard_watches",
        sa.Column("guard", sa.String(64), primary_key=True),
        sa.Column("scope", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "dashboard_secrets",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "dashboard_reviewers",
        sa.Column("origin", sa.String(16), primary_key=True),
        sa.Column("reviewer", sa.Text, nullable=False, unique=True),
    )
