"""indices for battles and votes newer than a moment

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_battles_campaign_id_served_at", "battles", ["campaign_id", "served_at"])
    op.create_index(op.f("ix_votes_created_at"), "votes", ["created_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_votes_created_at"), table_name="votes")
    op.drop_index("ix_battles_campaign_id_served_at", table_name="battles")
