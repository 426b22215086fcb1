"""Which keys were rotated into each other, and who has taken note of alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("keys", sa.Column("origin", sa.String(16)))
    # Until now a name was all that keys had in common.
    op.execute(
        "UPDATE keys SET origin = (SELECT first.prefix FROM keys AS first WHERE first.tenant = keys.tenant "
        "AND first.name = keys.name ORDER BY first.created, first.prefix LIMIT 1)"
    )
    op.add_column("alerts", sa.Column("acknowledged", sa.Double))
    op.add_column("alerts", sa.Column("acknowledged_by", sa.Text))
