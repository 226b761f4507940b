"""models on other servers: a replica without a job

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("replicas", schema=None) as batch_op:
        batch_op.alter_column("job_id", existing_type=sa.String(length=12), nullable=True)
        batch_op.alter_column("url", existing_type=sa.String(length=200), type_=sa.String(length=300), existing_nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM replicas WHERE job_id IS NULL")
    with op.batch_alter_table("replicas", schema=None) as batch_op:
        batch_op.alter_column("url", existing_type=sa.String(length=300), type_=sa.String(length=200), existing_nullable=True)
        batch_op.alter_column("job_id", existing_type=sa.String(length=12), nullable=False)
