"""who made a ballot link

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Plain ADD COLUMN, for the reason that 0002 gives.
    op.execute("ALTER TABLE raters ADD COLUMN created_by VARCHAR(12) CONSTRAINT fk_raters_created_by REFERENCES users (id)")


def downgrade() -> None:
    op.execute("ALTER TABLE raters DROP COLUMN created_by")
