"""Jobs state how many machines they take at once, and machines that train one run together have rows.

Revision ID: 0035
Revises: 0034
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("num_machines", sa.Integer(), nullable=False, server_default="1"))
    op.create_index("ix_jobs_gangs", "jobs", ["status", "queue", "num_machines"])
    table = sa.table("jobs", sa.column("id"), sa.column("kind"), sa.column("payload"), sa.column("num_machines"))
    connection = op.get_bind()
    trains = sa.select(table.c.id, table.c.payload).where(table.c.kind == "train")
    for job_id, payload in connection.execute(trains).all():
        stored = json.loads(payload) if isinstance(payload, str) else payload
        devices = (stored.get("config") or {}).get("devices") or {}
        if devices.get("nodes", 1) > 1:
            connection.execute(sa.update(table).where(table.c.id == job_id).values(num_machines=devices["nodes"]))
    op.create_table(
        "gang_members",
        sa.Column("job_id", sa.String(12), nullable=False),
        sa.Column("host", sa.String(80), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("address", sa.String(120), nullable=True),
        sa.Column("error", sa.JSON(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_gang_members_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "host", name=op.f("pk_gang_members")),
    )
