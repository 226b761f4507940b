"""Requests for a model that no endpoint has keep the name that was asked for.

Revision ID: 0037
Revises: 0036
"""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage", sa.Column("asked_model", sa.String(80), nullable=True))
