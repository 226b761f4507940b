"""queue times of requests, and deliveries of alerts that are tried again

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
OPEN = sa.text("resolved_at IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("usage") as batch_op:
        batch_op.add_column(sa.Column("queue_ms", sa.Float(), nullable=True))
    with op.batch_alter_table("traffic_rollups") as batch_op:
        batch_op.add_column(sa.Column("queue", sa.JSON(), nullable=False, server_default="{}"))
    # two workers may have opened one alert at once: the older one stays open
    op.execute(
        "UPDATE alerts SET resolved_at = seen_at WHERE resolved_at IS NULL AND EXISTS (SELECT 1 FROM alerts AS older"
        " WHERE older.fingerprint = alerts.fingerprint AND older.resolved_at IS NULL AND older.id < alerts.id)"
    )
    op.create_index("ux_alerts_open", "alerts", ["fingerprint"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_table(
        "alert_deliveries",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("alert_id", sa.String(length=12), nullable=False),
        sa.Column("channel", sa.String(length=10), nullable=False),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("next_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("sent_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.id"], name=op.f("fk_alert_deliveries_alert_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_deliveries")),
    )
    op.create_index(op.f("ix_alert_deliveries_alert_id"), "alert_deliveries", ["alert_id"])
    op.create_index(op.f("ix_alert_deliveries_next_at"), "alert_deliveries", ["next_at"])


def downgrade() -> None:
    op.drop_table("alert_deliveries")
    op.drop_index("ux_alerts_open", table_name="alerts")
    with op.batch_alter_table("traffic_rollups") as batch_op:
        batch_op.drop_column("queue")
    with op.batch_alter_table("usage") as batch_op:
        batch_op.drop_column("queue_ms")
