"""Jobs state how many GPUs of one machine they take.

Revision ID: 0032
Revises: 0031
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("num_devices", sa.Integer(), nullable=False, server_default="1"))
    table = sa.table("jobs", sa.column("id"), sa.column("kind"), sa.column("payload"), sa.column("num_devices"))
    connection = op.get_bind()
    trains = sa.select(table.c.id, table.c.payload).where(table.c.kind.in_(["train", "probe"]))
    for job_id, payload in connection.execute(trains).all():
        stored = json.loads(payload) if isinstance(payload, str) else payload
        devices = (stored.get("config") or {}).get("devices") or {}
        count = devices.get("count", 1) // devices.get("nodes", 1)
        if count > 1:
            connection.execute(sa.update(table).where(table.c.id == job_id).values(num_devices=count))
