"""Suites run on endpoints, and gates judge them, as they do checkpoints.

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, columns in (
        ("suite_results", (("checkpoint_id", "endpoint_id"),)),
        ("gate_results", (("checkpoint_id", "endpoint_id"), ("champion_id", "champion_endpoint_id"))),
    ):
        with op.batch_alter_table(table) as batch:
            for checkpoint, endpoint in columns:
                batch.alter_column(checkpoint, existing_type=sa.String(12), nullable=True)
                batch.add_column(sa.Column(endpoint, sa.String(12), nullable=True))
                batch.create_foreign_key(
                    op.f(f"fk_{table}_{endpoint}"), "evaluated_endpoints", [endpoint], ["id"]
                )
                batch.create_index(op.f(f"ix_{table}_{endpoint}"), [endpoint], unique=False)
