"""endpoints as subjects of evaluations, and verdicts of judges

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

import backend.db.base

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CREATE = (
    "CREATE TABLE evaluations (id VARCHAR(12) NOT NULL, checkpoint_id VARCHAR(12){null}, dataset_version_id VARCHAR(12) NOT NULL,"
    " kind VARCHAR(20) NOT NULL, config JSON NOT NULL, fingerprint VARCHAR(64) NOT NULL, job_id VARCHAR(12), created_by VARCHAR(12),"
    " created_at DATETIME NOT NULL{endpoint_column}, CONSTRAINT pk_evaluations PRIMARY KEY (id),"
    " CONSTRAINT fk_evaluations_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id),"
    " CONSTRAINT fk_evaluations_created_by FOREIGN KEY(created_by) REFERENCES users (id),"
    " CONSTRAINT fk_evaluations_dataset_version_id FOREIGN KEY(dataset_version_id) REFERENCES dataset_versions (id),"
    " CONSTRAINT fk_evaluations_job_id FOREIGN KEY(job_id) REFERENCES jobs (id){endpoint_reference})"
)
COLUMNS = "id, checkpoint_id, dataset_version_id, kind, config, fingerprint, job_id, created_by, created_at"
INDEXED = ("checkpoint_id", "dataset_version_id", "fingerprint")


def upgrade() -> None:
    op.create_table(
        "evaluated_endpoints",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("url", sa.String(length=300), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(length=12), nullable=True),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("archived_at", backend.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_evaluated_endpoints_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluated_endpoints")),
        sa.UniqueConstraint("name", "url", "model", name=op.f("uq_evaluated_endpoints_name_url_model")),
    )
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(
            CREATE.format(
                null="",
                endpoint_column=", endpoint_id VARCHAR(12)",
                endpoint_reference=", CONSTRAINT fk_evaluations_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES evaluated_endpoints (id)",
            )
        )
    else:
        op.alter_column("evaluations", "checkpoint_id", nullable=True)
        op.add_column("evaluations", sa.Column("endpoint_id", sa.String(length=12), nullable=True))
        op.create_foreign_key("fk_evaluations_endpoint_id", "evaluations", "evaluated_endpoints", ["endpoint_id"], ["id"])
    op.create_index("ix_evaluations_endpoint_id", "evaluations", ["endpoint_id"])
    op.create_table(
        "judged_items",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=12), nullable=False),
        sa.Column("evaluation_id", sa.String(length=12), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("item", sa.String(length=200), nullable=False),
        sa.Column("verdict", sa.String(length=80), nullable=True),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("created_at", backend.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_judged_items_evaluation_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_judged_items_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judged_items")),
        sa.UniqueConstraint("job_id", "item", name=op.f("uq_judged_items_job_id_item")),
    )
    op.create_index("ix_judged_items_evaluation_id", "judged_items", ["evaluation_id"])
    op.create_index("ix_judged_items_job_id", "judged_items", ["job_id"])


def downgrade() -> None:
    op.drop_table("judged_items")
    if op.get_bind().execute(sa.text("SELECT count(*) FROM evaluations WHERE checkpoint_id IS NULL")).scalar_one():
        raise RuntimeError("Delete the evaluations of endpoints first: the older schema can't hold them.")
    op.drop_index("ix_evaluations_endpoint_id", "evaluations")
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(CREATE.format(null=" NOT NULL", endpoint_column="", endpoint_reference=""))
    else:
        op.drop_constraint("fk_evaluations_endpoint_id", "evaluations", type_="foreignkey")
        op.drop_column("evaluations", "endpoint_id")
        op.alter_column("evaluations", "checkpoint_id", nullable=False)
    op.drop_table("evaluated_endpoints")


def _rebuild(create: str) -> None:
    """Write SQLite's table of evaluations again, which is the only way to let a column be empty.

    References of other tables are checked at the end of the transaction: filling the new table under the old name satisfies them again,
    while renaming a copy would not.
    """
    op.execute("PRAGMA defer_foreign_keys=ON")
    op.execute("CREATE TEMPORARY TABLE moved_evaluations AS SELECT * FROM evaluations")
    op.execute("DROP TABLE evaluations")
    op.execute(create)
    op.execute(f"INSERT INTO evaluations ({COLUMNS}) SELECT {COLUMNS} FROM moved_evaluations")
    op.execute("DROP TABLE moved_evaluations")
    for column in INDEXED:
        op.create_index(f"ix_evaluations_{column}", "evaluations", [column])
