"""the job that a request is made for

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("usage") as batch_op:
        batch_op.add_column(sa.Column("job_id", sa.String(length=12), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("usage") as batch_op:
        batch_op.drop_column("job_id")
