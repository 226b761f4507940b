"""conversations as trees whose answers the server generates; shared links, presets, and thumbs with their prompts

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("conversations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("leaf_id", sa.String(length=12), nullable=True))
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent_id", sa.String(length=12), nullable=True))
        batch_op.add_column(sa.Column("round", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("status", sa.String(length=10), server_default="done", nullable=False))
        batch_op.add_column(sa.Column("tokens", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("updated_at", backend.db.base.UtcDateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE messages SET parent_id = (SELECT before.id FROM messages AS before WHERE before.conversation_id = messages.conversation_id"
        " AND before.branch = 0 AND before.position = messages.position - 1)"
    )
    _create_tables()


def _create_tables() -> None:
    op.create_table(
        "conversation_shares",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("conversation_id", sa.String(length=12), nullable=False),
        sa.Column("leaf_id", sa.String(length=12), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name=op.f("fk_conversation_shares_conversation_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_conversation_shares_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_shares")),
    )
    op.create_index(op.f("ix_conversation_shares_conversation_id"), "conversation_shares", ["conversation_id"])
    op.create_table(
        "presets",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("user_id", sa.String(length=12), nullable=True),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_presets_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_presets")),
    )
    op.create_index(op.f("ix_presets_user_id"), "presets", ["user_id"])
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.add_column(sa.Column("endpoint", sa.String(length=80), nullable=True))
        batch_op.add_column(sa.Column("checkpoint_id", sa.String(length=12), nullable=True))
        batch_op.add_column(sa.Column("messages", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("answer", sa.Text(), nullable=True))


def downgrade() -> None:
    for table in ("presets", "conversation_shares"):
        op.drop_table(table)
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        for column in ("answer", "messages", "checkpoint_id", "endpoint"):
            batch_op.drop_column(column)
    with op.batch_alter_table("messages", schema=None) as batch_op:
        for column in ("updated_at", "tokens", "status", "round", "parent_id"):
            batch_op.drop_column(column)
    with op.batch_alter_table("conversations", schema=None) as batch_op:
        batch_op.drop_column("leaf_id")
