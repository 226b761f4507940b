"""deleted conversations go

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM messages WHERE conversation_id IN (SELECT id FROM conversations WHERE deleted_at IS NOT NULL)")
    op.execute("DELETE FROM conversations WHERE deleted_at IS NOT NULL")
    # Plain DROP COLUMN, for the reason that 0002 gives.
    op.execute("ALTER TABLE conversations DROP COLUMN deleted_at")


def downgrade() -> None:
    op.add_column("conversations", sa.Column("deleted_at", backend.db.base.UtcDateTime(timezone=True), nullable=True))
