"""Prices of device-hours are set on the page.

Revision ID: 0028
Revises: 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_prices",
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("hour_usd", sa.Float(), nullable=False),
        sa.Column("set_by", sa.String(12), nullable=True),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["set_by"], ["users.id"], name=op.f("fk_device_prices_set_by")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_device_prices")),
    )
