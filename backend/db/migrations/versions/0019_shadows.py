"""comparisons of requests with their copies at a shadow

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shadow_comparisons",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("deployment_id", sa.String(length=12), nullable=False),
        sa.Column("is_equal", sa.Boolean(), nullable=True),
        sa.Column("primary_tokens", sa.Integer(), nullable=False),
        sa.Column("shadow_tokens", sa.Integer(), nullable=False),
        sa.Column("primary_ttft_ms", sa.Float(), nullable=True),
        sa.Column("shadow_ttft_ms", sa.Float(), nullable=True),
        sa.Column("primary_total_ms", sa.Float(), nullable=False),
        sa.Column("shadow_total_ms", sa.Float(), nullable=False),
        sa.Column("error", sa.String(length=40), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name=op.f("fk_shadow_comparisons_deployment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_comparisons")),
    )
    op.create_index("ix_shadow_comparisons_deployment_time", "shadow_comparisons", ["deployment_id", "created_at"])


def downgrade() -> None:
    op.drop_table("shadow_comparisons")
