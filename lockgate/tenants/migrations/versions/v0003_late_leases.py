"""Since when a lease is missed that was not renewed in time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("leases", sa.Column("late_since", sa.Double))
