"""analyses, measurements, run groups

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

NEW_REFERENCES = (("dataset_versions", "parent_id", "dataset_versions"), ("runs", "group_id", "run_groups"))


def upgrade() -> None:
    op.create_table('run_groups',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('name', sa.String(length=120), nullable=False),
    sa.Column('kind', sa.String(length=20), nullable=False),
    sa.Column('config', sa.JSON(), nullable=False),
    sa.Column('result', sa.JSON(), nullable=False),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('archived_at', backend.db.base.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_run_groups_created_by')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_run_groups')),
    sa.UniqueConstraint('name', name=op.f('uq_run_groups_name'))
    )
    op.create_table('measurements',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('origin', sa.String(length=10), nullable=False),
    sa.Column('job_id', sa.String(length=12), nullable=True),
    sa.Column('run_id', sa.String(length=12), nullable=True),
    sa.Column('setting', sa.JSON(), nullable=False),
    sa.Column('setting_hash', sa.String(length=64), nullable=False),
    sa.Column('device', sa.String(length=80), nullable=False),
    sa.Column('host', sa.String(length=80), nullable=False),
    sa.Column('estimated_bytes', sa.BigInteger(), nullable=False),
    sa.Column('measured_bytes', sa.BigInteger(), nullable=False),
    sa.Column('tokens_per_s', sa.Float(), nullable=False),
    sa.Column('facts', sa.JSON(), nullable=False),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_measurements_job_id')),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_measurements_run_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_measurements'))
    )
    with op.batch_alter_table('measurements', schema=None) as batch_op:
        batch_op.create_index('ix_measurements_device_created_at', ['device', 'created_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_measurements_job_id'), ['job_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_measurements_run_id'), ['run_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_measurements_setting_hash'), ['setting_hash'], unique=False)

    op.create_table('analyses',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('kind', sa.String(length=30), nullable=False),
    sa.Column('job_id', sa.String(length=12), nullable=True),
    sa.Column('dataset_version_id', sa.String(length=12), nullable=True),
    sa.Column('tokenizer_id', sa.String(length=12), nullable=True),
    sa.Column('checkpoint_id', sa.String(length=12), nullable=True),
    sa.Column('other_checkpoint_id', sa.String(length=12), nullable=True),
    sa.Column('config', sa.JSON(), nullable=False),
    sa.Column('result', sa.JSON(), nullable=False),
    sa.Column('folder', sa.String(length=300), nullable=True),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['checkpoint_id'], ['checkpoints.id'], name=op.f('fk_analyses_checkpoint_id')),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_analyses_created_by')),
    sa.ForeignKeyConstraint(['dataset_version_id'], ['dataset_versions.id'], name=op.f('fk_analyses_dataset_version_id')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_analyses_job_id')),
    sa.ForeignKeyConstraint(['other_checkpoint_id'], ['checkpoints.id'], name=op.f('fk_analyses_other_checkpoint_id')),
    sa.ForeignKeyConstraint(['tokenizer_id'], ['tokenizers.id'], name=op.f('fk_analyses_tokenizer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_analyses')),
    sa.UniqueConstraint('job_id', name=op.f('uq_analyses_job_id'))
    )
    with op.batch_alter_table('analyses', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_analyses_checkpoint_id'), ['checkpoint_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_analyses_dataset_version_id'), ['dataset_version_id'], unique=False)
        batch_op.create_index('ix_analyses_kind_created_at', ['kind', 'created_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_analyses_other_checkpoint_id'), ['other_checkpoint_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_analyses_tokenizer_id'), ['tokenizer_id'], unique=False)

    # Plain ADD COLUMN, which both databases know. Batch mode would build the table anew, and dropping the old one breaks what refers to it.
    for table, column, target in NEW_REFERENCES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} VARCHAR(12) CONSTRAINT fk_{table}_{column} REFERENCES {target} (id)")
        op.create_index(f"ix_{table}_{column}", table, [column])
    if op.get_bind().dialect.name != "sqlite":  # 0001 left this one out; SQLite, which has it in its text alone, can't add it
        op.create_foreign_key("fk_runs_base_id", "runs", "checkpoints", ["base_id"], ["id"])


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("fk_runs_base_id", "runs", type_="foreignkey")
    for table, column, _target in reversed(NEW_REFERENCES):
        op.drop_index(f"ix_{table}_{column}", table_name=table)
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.drop_table("analyses")
    op.drop_table("measurements")
    op.drop_table("run_groups")
