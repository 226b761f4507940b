"""gates, their verdicts, and the endpoints that require one

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gates",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_gates_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
        sa.UniqueConstraint("name", name=op.f("uq_gates_name")),
    )
    op.create_table(
        "gate_results",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("gate_id", sa.String(length=12), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=12), nullable=False),
        sa.Column("champion_id", sa.String(length=12), nullable=False),
        sa.Column("verdict", sa.String(length=12), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["champion_id"], ["checkpoints.id"], name=op.f("fk_gate_results_champion_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_gate_results_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_gate_results_created_by")),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_gate_results_gate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_results")),
    )
    with op.batch_alter_table("gate_results", schema=None) as batch_op:
        batch_op.create_index("ix_gate_results_gate_id_created_at", ["gate_id", "created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_gate_results_champion_id"), ["champion_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_gate_results_checkpoint_id"), ["checkpoint_id"], unique=False)
    op.create_table(
        "required_gates",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("endpoint", sa.String(length=80), nullable=False),
        sa.Column("gate_id", sa.String(length=12), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_required_gates_created_by")),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_required_gates_gate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_required_gates")),
        sa.UniqueConstraint("endpoint", "gate_id", name=op.f("uq_required_gates_endpoint_gate_id")),
    )
    with op.batch_alter_table("required_gates", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_required_gates_gate_id"), ["gate_id"], unique=False)


def downgrade() -> None:
    for table in ("required_gates", "gate_results", "gates"):
        op.drop_table(table)
