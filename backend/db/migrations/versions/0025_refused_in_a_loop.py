"""Requests of a client that is refused in a loop are counted in one row, so that it can't fill the database.

Revision ID: 0025
Revises: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage", sa.Column("requests", sa.Integer(), nullable=False, server_default="1"))
