"""The index of the queue holds what jobs are placed on, so that places in it are counted without reading the jobs.

Revision ID: 0034
Revises: 0033
"""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_jobs_status_queue", table_name="jobs")
    op.create_index("ix_jobs_status_queue", "jobs", ["status", "queue", "priority", "created_at", "id", "placement"])
