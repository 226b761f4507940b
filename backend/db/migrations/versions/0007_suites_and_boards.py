"""suites, packed items of evaluations, imported evaluations

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_suites()
    op.create_table(
        "packed_items",
        sa.Column("evaluation_id", sa.String(length=12), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_packed_items_evaluation_id")),
        sa.PrimaryKeyConstraint("evaluation_id", name=op.f("pk_packed_items")),
    )
    op.create_table(
        "imported_evaluations",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column("harness", sa.String(length=80), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("benchmark", sa.String(length=160), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_imported_evaluations_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_evaluations")),
        sa.UniqueConstraint("content_hash", "benchmark", name=op.f("uq_imported_evaluations_content_hash_benchmark")),
    )


def _create_suites() -> None:
    op.create_table(
        "suites",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("archived_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_suites_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suites")),
        sa.UniqueConstraint("name", name=op.f("uq_suites_name")),
    )
    op.create_table(
        "suite_results",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("suite_id", sa.String(length=12), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=12), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("members", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("launched_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_suite_results_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_suite_results_created_by")),
        sa.ForeignKeyConstraint(["suite_id"], ["suites.id"], name=op.f("fk_suite_results_suite_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suite_results")),
    )
    with op.batch_alter_table("suite_results", schema=None) as batch_op:
        batch_op.create_index("ix_suite_results_suite_id_created_at", ["suite_id", "created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_suite_results_checkpoint_id"), ["checkpoint_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_suite_results_launched_at"), ["launched_at"], unique=False)
    op.create_table(
        "run_suites",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(length=12), nullable=False),
        sa.Column("suite_id", sa.String(length=12), nullable=False),
        sa.Column("moment", sa.String(length=10), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_suites_run_id")),
        sa.ForeignKeyConstraint(["suite_id"], ["suites.id"], name=op.f("fk_run_suites_suite_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_suites")),
        sa.UniqueConstraint("run_id", "suite_id", name=op.f("uq_run_suites_run_id_suite_id")),
    )
    with op.batch_alter_table("run_suites", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_suites_suite_id"), ["suite_id"], unique=False)


def downgrade() -> None:
    for table in ("run_suites", "suite_results", "suites", "imported_evaluations", "packed_items"):
        op.drop_table(table)
