"""imported runs, packed metric points

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('metric_blocks',
    sa.Column('run_id', sa.String(length=12), nullable=False),
    sa.Column('name_id', sa.Integer(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('points', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['name_id'], ['metric_names.id'], name=op.f('fk_metric_blocks_name_id')),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_metric_blocks_run_id')),
    sa.PrimaryKeyConstraint('run_id', 'name_id', 'number', name=op.f('pk_metric_blocks')),
    sqlite_with_rowid=False
    )
    # Plain ADD COLUMN, for the reason that 0002 gives.
    op.execute("ALTER TABLE runs ADD COLUMN origin VARCHAR(10) DEFAULT 'launched' NOT NULL")
    op.execute("ALTER TABLE runs ADD COLUMN packed_to INTEGER DEFAULT 0 NOT NULL")
    op.create_index("ix_runs_archived_at_created_at", "runs", ["archived_at", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_runs_archived_at_created_at", table_name="runs")
    op.execute("ALTER TABLE runs DROP COLUMN packed_to")
    op.execute("ALTER TABLE runs DROP COLUMN origin")
    op.drop_table("metric_blocks")
