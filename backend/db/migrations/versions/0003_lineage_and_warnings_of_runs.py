"""lineage and accepted warnings of runs

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Plain ADD COLUMN, for the reason that 0002 gives.
    op.execute("ALTER TABLE runs ADD COLUMN parent_id VARCHAR(12) CONSTRAINT fk_runs_parent_id REFERENCES runs (id)")
    op.execute("ALTER TABLE runs ADD COLUMN warnings JSON DEFAULT '[]' NOT NULL")
    op.create_index("ix_runs_parent_id", "runs", ["parent_id"])


def downgrade() -> None:
    op.drop_index("ix_runs_parent_id", table_name="runs")
    op.execute("ALTER TABLE runs DROP COLUMN warnings")
    op.execute("ALTER TABLE runs DROP COLUMN parent_id")
