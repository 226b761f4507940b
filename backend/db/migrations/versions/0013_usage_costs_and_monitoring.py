"""limits of keys, costs of usage, rollups, alerts, request logs, feedback and load tests

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base


revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('alerts',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('fingerprint', sa.String(length=200), nullable=False),
    sa.Column('kind', sa.String(length=30), nullable=False),
    sa.Column('severity', sa.String(length=10), nullable=False),
    sa.Column('message', sa.Text(), nullable=False),
    sa.Column('opened_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('seen_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('resolved_at', backend.db.base.UtcDateTime(timezone=True), nullable=True),
    sa.Column('sent_at', backend.db.base.UtcDateTime(timezone=True), nullable=True),
    sa.Column('problem', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alerts'))
    )
    with op.batch_alter_table('alerts', schema=None) as batch_op:
        batch_op.create_index('ix_alerts_fingerprint_resolved_at', ['fingerprint', 'resolved_at'], unique=False)

    op.create_table('device_uses',
    sa.Column('id', sa.Integer(), autoincrement=True, nullable=False),
    sa.Column('job_id', sa.String(length=12), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('kind', sa.String(length=4), nullable=False),
    sa.Column('device_name', sa.String(length=120), nullable=False),
    sa.Column('num_devices', sa.Integer(), nullable=False),
    sa.Column('hour_usd', sa.Float(), nullable=True),
    sa.Column('started_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('ended_at', backend.db.base.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_device_uses_job_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_device_uses'))
    )
    with op.batch_alter_table('device_uses', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_device_uses_job_id'), ['job_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_device_uses_started_at'), ['started_at'], unique=False)
    # Earlier jobs: one use from their first start to their end, without the device's name and price.
    op.execute(
        "INSERT INTO device_uses (job_id, attempt, kind, device_name, num_devices, started_at, ended_at)"
        " SELECT id, attempt, CASE WHEN device_request = 'gpu' THEN 'gpu' ELSE 'cpu' END, '', 1, started_at, finished_at"
        " FROM jobs WHERE started_at IS NOT NULL"
    )
    op.create_table('gauge_rollups',
    sa.Column('id', sa.Integer(), autoincrement=True, nullable=False),
    sa.Column('width_s', sa.Integer(), nullable=False),
    sa.Column('start', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('subject', sa.String(length=120), nullable=False),
    sa.Column('name', sa.String(length=40), nullable=False),
    sa.Column('readings', sa.Integer(), nullable=False),
    sa.Column('sum', sa.Float(), nullable=False),
    sa.Column('maximum', sa.Float(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_gauge_rollups')),
    sa.UniqueConstraint('width_s', 'start', 'subject', 'name', name=op.f('uq_gauge_rollups_width_s_start_subject_name'))
    )
    op.create_table('traffic_rollups',
    sa.Column('id', sa.Integer(), autoincrement=True, nullable=False),
    sa.Column('width_s', sa.Integer(), nullable=False),
    sa.Column('start', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('endpoint_id', sa.String(length=12), nullable=False),
    sa.Column('variant', sa.String(length=40), nullable=False),
    sa.Column('requests', sa.Integer(), nullable=False),
    sa.Column('lost', sa.Integer(), nullable=False),
    sa.Column('refused', sa.Integer(), nullable=False),
    sa.Column('aborted', sa.Integer(), nullable=False),
    sa.Column('prompt_tokens', sa.Integer(), nullable=False),
    sa.Column('cached_tokens', sa.Integer(), nullable=False),
    sa.Column('completion_tokens', sa.Integer(), nullable=False),
    sa.Column('device_s', sa.Float(), nullable=False),
    sa.Column('cost_usd', sa.Float(), nullable=False),
    sa.Column('ttft', sa.JSON(), nullable=False),
    sa.Column('itl', sa.JSON(), nullable=False),
    sa.Column('total', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_traffic_rollups')),
    sa.UniqueConstraint('width_s', 'start', 'endpoint_id', 'variant', name=op.f('uq_traffic_rollups_width_s_start_endpoint_id_variant'))
    )
    op.create_table('feedback',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('request_id', sa.String(length=40), nullable=False),
    sa.Column('rating', sa.Integer(), nullable=True),
    sa.Column('correction', sa.Text(), nullable=False),
    sa.Column('comment', sa.Text(), nullable=False),
    sa.Column('source', sa.String(length=12), nullable=False),
    sa.Column('key_id', sa.String(length=12), nullable=True),
    sa.Column('user_id', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['key_id'], ['api_keys.id'], name=op.f('fk_feedback_key_id')),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_feedback_user_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_feedback'))
    )
    with op.batch_alter_table('feedback', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_feedback_request_id'), ['request_id'], unique=False)

    op.create_table('load_tests',
    sa.Column('id', sa.String(length=12), nullable=False),
    sa.Column('endpoint_id', sa.String(length=12), nullable=False),
    sa.Column('deployment_id', sa.String(length=12), nullable=False),
    sa.Column('job_id', sa.String(length=12), nullable=True),
    sa.Column('config', sa.JSON(), nullable=False),
    sa.Column('result', sa.JSON(), nullable=False),
    sa.Column('created_by', sa.String(length=12), nullable=True),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['created_by'], ['users.id'], name=op.f('fk_load_tests_created_by')),
    sa.ForeignKeyConstraint(['endpoint_id'], ['endpoints.id'], name=op.f('fk_load_tests_endpoint_id')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_load_tests_job_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_load_tests'))
    )
    with op.batch_alter_table('load_tests', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_load_tests_endpoint_id'), ['endpoint_id'], unique=False)

    op.create_table('request_log_policies',
    sa.Column('endpoint_id', sa.String(length=12), nullable=False),
    sa.Column('config', sa.JSON(), nullable=False),
    sa.Column('updated_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['endpoint_id'], ['endpoints.id'], name=op.f('fk_request_log_policies_endpoint_id')),
    sa.PrimaryKeyConstraint('endpoint_id', name=op.f('pk_request_log_policies'))
    )
    op.create_table('request_logs',
    sa.Column('id', sa.String(length=40), nullable=False),
    sa.Column('endpoint_id', sa.String(length=12), nullable=False),
    sa.Column('key_id', sa.String(length=12), nullable=True),
    sa.Column('checkpoint_id', sa.String(length=12), nullable=True),
    sa.Column('kind', sa.String(length=12), nullable=False),
    sa.Column('params', sa.JSON(), nullable=False),
    sa.Column('messages', sa.JSON(), nullable=True),
    sa.Column('answer', sa.Text(), nullable=True),
    sa.Column('status', sa.String(length=20), nullable=False),
    sa.Column('redactions', sa.Integer(), nullable=False),
    sa.Column('created_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('expires_at', backend.db.base.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['endpoint_id'], ['endpoints.id'], name=op.f('fk_request_logs_endpoint_id')),
    sa.ForeignKeyConstraint(['key_id'], ['api_keys.id'], name=op.f('fk_request_logs_key_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_request_logs'))
    )
    with op.batch_alter_table('request_logs', schema=None) as batch_op:
        batch_op.create_index('ix_request_logs_endpoint_id_created_at', ['endpoint_id', 'created_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_request_logs_expires_at'), ['expires_at'], unique=False)

    with op.batch_alter_table('api_keys', schema=None) as batch_op:
        batch_op.add_column(sa.Column('scopes', sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column('limits', sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column('expires_at', backend.db.base.UtcDateTime(timezone=True), nullable=True))

    with op.batch_alter_table('usage', schema=None) as batch_op:
        batch_op.add_column(sa.Column('checkpoint_id', sa.String(length=12), nullable=True))
        batch_op.add_column(sa.Column('variant', sa.String(length=40), nullable=False, server_default=sa.text("''")))
        batch_op.add_column(sa.Column('cached_tokens', sa.Integer(), nullable=False, server_default=sa.text("'0'")))
        batch_op.add_column(sa.Column('itl_ms', sa.Float(), nullable=True))
        batch_op.add_column(sa.Column('device_s', sa.Float(), nullable=True))
        batch_op.add_column(sa.Column('cost_usd', sa.Float(), nullable=True))
        batch_op.add_column(sa.Column('finish_reason', sa.String(length=20), nullable=True))
        batch_op.create_index('ix_usage_key_id_created_at', ['key_id', 'created_at'], unique=False)



def downgrade() -> None:
    with op.batch_alter_table('usage', schema=None) as batch_op:
        batch_op.drop_index('ix_usage_key_id_created_at')
        batch_op.drop_column('finish_reason')
        batch_op.drop_column('cost_usd')
        batch_op.drop_column('device_s')
        batch_op.drop_column('itl_ms')
        batch_op.drop_column('cached_tokens')
        batch_op.drop_column('variant')
        batch_op.drop_column('checkpoint_id')

    with op.batch_alter_table('api_keys', schema=None) as batch_op:
        batch_op.drop_column('expires_at')
        batch_op.drop_column('limits')
        batch_op.drop_column('scopes')

    with op.batch_alter_table('request_logs', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_request_logs_expires_at'))
        batch_op.drop_index('ix_request_logs_endpoint_id_created_at')

    op.drop_table('request_logs')
    op.drop_table('request_log_policies')
    with op.batch_alter_table('load_tests', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_load_tests_endpoint_id'))

    op.drop_table('load_tests')
    with op.batch_alter_table('feedback', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_feedback_request_id'))

    op.drop_table('feedback')
    op.drop_table('traffic_rollups')
    op.drop_table('gauge_rollups')
    with op.batch_alter_table('alerts', schema=None) as batch_op:
        batch_op.drop_index('ix_alerts_fingerprint_resolved_at')

    op.drop_table('alerts')
    op.drop_table('device_uses')
