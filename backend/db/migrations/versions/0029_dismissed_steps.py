"""People dismiss next steps of the overview.

Revision ID: 0029
Revises: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dismissed_steps",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("key", sa.String(400), nullable=False),
        sa.Column("user_id", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_dismissed_steps_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dismissed_steps")),
    )
    op.create_index(op.f("ix_dismissed_steps_user_id"), "dismissed_steps", ["user_id"], unique=False)
