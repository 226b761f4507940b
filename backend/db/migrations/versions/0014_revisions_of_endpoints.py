"""revisions of endpoints, canaries, and requests that replicas lost

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("revision", sa.Integer(), server_default="1", nullable=False))
    op.add_column("deployments", sa.Column("restores", sa.Integer(), nullable=True))
    op.add_column("deployments", sa.Column("role", sa.String(length=10), server_default="stable", nullable=False))
    op.add_column("deployments", sa.Column("traffic", sa.JSON(), server_default="{}", nullable=False))
    op.execute(
        "UPDATE deployments SET revision = (SELECT count(*) FROM deployments AS earlier"
        " WHERE earlier.endpoint_id = deployments.endpoint_id AND (earlier.created_at < deployments.created_at"
        " OR (earlier.created_at = deployments.created_at AND earlier.id <= deployments.id)))"
    )
    op.create_table(
        "replica_failures",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("replica_id", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica_failures")),
    )
    op.create_index("ix_replica_failures_replica_time", "replica_failures", ["replica_id", "created_at"])


def downgrade() -> None:
    op.drop_table("replica_failures")
    for column in ("traffic", "role", "restores", "revision"):
        with op.batch_alter_table("deployments") as batch_op:
            batch_op.drop_column(column)
