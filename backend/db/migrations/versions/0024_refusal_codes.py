"""Codes of refused requests are stored whole: `context_length_exceeded` has 23 characters.

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("usage") as usage:
        usage.alter_column("finish_reason", existing_type=sa.String(20), type_=sa.String(40), existing_nullable=True)
