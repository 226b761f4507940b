"""The schema of version 0.1.0. Installations made before at this revision hold the same tables.

Revision ID: 0023
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("fingerprint", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(30), nullable=False),
        sa.Column("severity", sa.String(10), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index("ix_alerts_fingerprint_resolved_at", "alerts", ["fingerprint", "resolved_at"], unique=False)
    op.create_index(
        "ux_alerts_open",
        "alerts",
        ["fingerprint"],
        unique=True,
        sqlite_where=sa.text("resolved_at IS NULL"),
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "gauge_rollups",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("width_s", sa.Integer(), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("subject", sa.String(120), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("readings", sa.Integer(), nullable=False),
        sa.Column("sum", sa.Float(), nullable=False),
        sa.Column("maximum", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gauge_rollups")),
        sa.UniqueConstraint(
            "width_s", "start", "subject", "name", name=op.f("uq_gauge_rollups_width_s_start_subject_name")
        ),
    )
    op.create_table(
        "metric_names",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_names")),
        sa.UniqueConstraint("name", name=op.f("uq_metric_names_name")),
    )
    op.create_table(
        "replica_failures",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("replica_id", sa.String(12), nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica_failures")),
    )
    op.create_index("ix_replica_failures_replica_time", "replica_failures", ["replica_id", "created_at"], unique=False)
    op.create_table(
        "slots",
        sa.Column("host", sa.String(80), nullable=False),
        sa.Column("device", sa.String(20), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("host", "device", name=op.f("pk_slots")),
    )
    op.create_table(
        "stored_responses",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(20), nullable=False),
        sa.Column("endpoint", sa.String(200), nullable=False),
        sa.Column("previous_id", sa.String(60), nullable=True),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stored_responses")),
    )
    op.create_index(op.f("ix_stored_responses_expires_at"), "stored_responses", ["expires_at"], unique=False)
    op.create_index("ix_stored_responses_owner_time", "stored_responses", ["owner", "created_at"], unique=False)
    op.create_table(
        "traffic_rollups",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("width_s", sa.Integer(), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("endpoint_id", sa.String(12), nullable=False),
        sa.Column("variant", sa.String(40), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("aborted", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("device_s", sa.Float(), nullable=False),
        sa.Column("cost_usd", sa.Float(), nullable=False),
        sa.Column("ttft", sa.JSON(), nullable=False),
        sa.Column("itl", sa.JSON(), nullable=False),
        sa.Column("total", sa.JSON(), nullable=False),
        sa.Column("queue", sa.JSON(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_traffic_rollups")),
        sa.UniqueConstraint(
            "width_s",
            "start",
            "endpoint_id",
            "variant",
            name=op.f("uq_traffic_rollups_width_s_start_endpoint_id_variant"),
        ),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("session_epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("host", sa.String(80), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.JSON(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("gauges", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("alert_id", sa.String(12), nullable=False),
        sa.Column("channel", sa.String(10), nullable=False),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_alert_deliveries_alert_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_deliveries")),
    )
    op.create_index(op.f("ix_alert_deliveries_alert_id"), "alert_deliveries", ["alert_id"], unique=False)
    op.create_index(op.f("ix_alert_deliveries_next_at"), "alert_deliveries", ["next_at"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(8), nullable=False),
        sa.Column("user_id", sa.String(12), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_table(
        "architectures",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_architectures_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_architectures")),
        sa.UniqueConstraint("name", name=op.f("uq_architectures_name")),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("user_id", sa.String(12), nullable=True),
        sa.Column("title", sa.String(160), nullable=False),
        sa.Column("endpoint", sa.String(80), nullable=False),
        sa.Column("other_endpoint", sa.String(80), nullable=True),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("leaf_id", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_conversations_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    op.create_index(op.f("ix_conversations_user_id"), "conversations", ["user_id"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_datasets_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_endpoints_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoints_name")),
    )
    op.create_table(
        "evaluated_endpoints",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("url", sa.String(300), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_evaluated_endpoints_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluated_endpoints")),
        sa.UniqueConstraint("name", "url", "model", name=op.f("uq_evaluated_endpoints_name_url_model")),
    )
    op.create_table(
        "evaluation_tasks",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_evaluation_tasks_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_tasks")),
        sa.UniqueConstraint("name", name=op.f("uq_evaluation_tasks_name")),
    )
    op.create_table(
        "gates",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_gates_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
        sa.UniqueConstraint("name", name=op.f("uq_gates_name")),
    )
    op.create_table(
        "imported_evaluations",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("source", sa.String(300), nullable=False),
        sa.Column("harness", sa.String(80), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("benchmark", sa.String(160), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_imported_evaluations_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_evaluations")),
        sa.UniqueConstraint("content_hash", "benchmark", name=op.f("uq_imported_evaluations_content_hash_benchmark")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(30), nullable=False),
        sa.Column("queue", sa.String(20), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("device_request", sa.String(8), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("restarts_forever", sa.Boolean(), nullable=False),
        sa.Column("idempotency_key", sa.String(80), nullable=True),
        sa.Column("depends_on_id", sa.String(12), nullable=True),
        sa.Column("stop_request", sa.String(20), nullable=True),
        sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("owner", sa.String(120), nullable=True),
        sa.Column("device", sa.String(20), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events_offset", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_jobs_created_by")),
        sa.ForeignKeyConstraint(["depends_on_id"], ["jobs.id"], name=op.f("fk_jobs_depends_on_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_jobs_idempotency_key")),
    )
    op.create_index(op.f("ix_jobs_depends_on_id"), "jobs", ["depends_on_id"], unique=False)
    op.create_index("ix_jobs_status_queue", "jobs", ["status", "queue", "priority", "created_at"], unique=False)
    op.create_table(
        "presets",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("user_id", sa.String(12), nullable=True),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_presets_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_presets")),
    )
    op.create_index(op.f("ix_presets_user_id"), "presets", ["user_id"], unique=False)
    op.create_table(
        "run_groups",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_run_groups_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_groups")),
        sa.UniqueConstraint("name", name=op.f("uq_run_groups_name")),
    )
    op.create_table(
        "suites",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_suites_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suites")),
        sa.UniqueConstraint("name", name=op.f("uq_suites_name")),
    )
    op.create_table(
        "conversation_shares",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("conversation_id", sa.String(12), nullable=False),
        sa.Column("leaf_id", sa.String(12), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name=op.f("fk_conversation_shares_conversation_id")
        ),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_conversation_shares_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_shares")),
    )
    op.create_index(
        op.f("ix_conversation_shares_conversation_id"), "conversation_shares", ["conversation_id"], unique=False
    )
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("dataset_id", sa.String(12), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("parent_id", sa.String(12), nullable=True),
        sa.Column("content_hash", sa.String(64), nullable=True),
        sa.Column("folder", sa.String(300), nullable=True),
        sa.Column("source", sa.String(400), nullable=False),
        sa.Column("mapping", sa.JSON(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("train_rows", sa.Integer(), nullable=False),
        sa.Column("val_rows", sa.Integer(), nullable=False),
        sa.Column("rejected_rows", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_versions_dataset_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_dataset_versions_job_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["dataset_versions.id"], name=op.f("fk_dataset_versions_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_versions")),
        sa.UniqueConstraint("dataset_id", "number", name=op.f("uq_dataset_versions_dataset_id_number")),
    )
    op.create_index(op.f("ix_dataset_versions_content_hash"), "dataset_versions", ["content_hash"], unique=False)
    op.create_index(op.f("ix_dataset_versions_dataset_id"), "dataset_versions", ["dataset_id"], unique=False)
    op.create_index(op.f("ix_dataset_versions_parent_id"), "dataset_versions", ["parent_id"], unique=False)
    op.create_table(
        "device_uses",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(12), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(4), nullable=False),
        sa.Column("device_name", sa.String(120), nullable=False),
        sa.Column("num_devices", sa.Integer(), nullable=False),
        sa.Column("hour_usd", sa.Float(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_device_uses_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_uses")),
    )
    op.create_index(op.f("ix_device_uses_job_id"), "device_uses", ["job_id"], unique=False)
    op.create_index(op.f("ix_device_uses_started_at"), "device_uses", ["started_at"], unique=False)
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("request_id", sa.String(40), nullable=False),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("correction", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("source", sa.String(12), nullable=False),
        sa.Column("endpoint", sa.String(80), nullable=True),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("messages", sa.JSON(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("key_id", sa.String(12), nullable=True),
        sa.Column("user_id", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_feedback_key_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_feedback_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    op.create_index(op.f("ix_feedback_request_id"), "feedback", ["request_id"], unique=False)
    op.create_table(
        "load_tests",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("endpoint_id", sa.String(12), nullable=False),
        sa.Column("deployment_id", sa.String(12), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_load_tests_created_by")),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_load_tests_endpoint_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_load_tests_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_load_tests")),
    )
    op.create_index(op.f("ix_load_tests_endpoint_id"), "load_tests", ["endpoint_id"], unique=False)
    op.create_table(
        "log_lines",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(12), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_log_lines_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_lines")),
    )
    op.create_index("ix_log_lines_job", "log_lines", ["job_id", "id"], unique=False)
    op.create_table(
        "request_log_policies",
        sa.Column("endpoint_id", sa.String(12), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_request_log_policies_endpoint_id")),
        sa.PrimaryKeyConstraint("endpoint_id", name=op.f("pk_request_log_policies")),
    )
    op.create_table(
        "request_logs",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("endpoint_id", sa.String(12), nullable=False),
        sa.Column("key_id", sa.String(12), nullable=True),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("redactions", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_request_logs_endpoint_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_request_logs_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_logs")),
    )
    op.create_index(
        "ix_request_logs_endpoint_id_created_at", "request_logs", ["endpoint_id", "created_at"], unique=False
    )
    op.create_index(op.f("ix_request_logs_expires_at"), "request_logs", ["expires_at"], unique=False)
    op.create_table(
        "required_gates",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("endpoint", sa.String(80), nullable=False),
        sa.Column("gate_id", sa.String(12), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_required_gates_created_by")),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_required_gates_gate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_required_gates")),
        sa.UniqueConstraint("endpoint", "gate_id", name=op.f("uq_required_gates_endpoint_gate_id")),
    )
    op.create_index(op.f("ix_required_gates_gate_id"), "required_gates", ["gate_id"], unique=False)
    op.create_table(
        "usage",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("endpoint_id", sa.String(12), nullable=True),
        sa.Column("key_id", sa.String(12), nullable=True),
        sa.Column("replica_id", sa.String(12), nullable=True),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("variant", sa.String(40), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("cached_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("ttft_ms", sa.Float(), nullable=True),
        sa.Column("total_ms", sa.Float(), nullable=True),
        sa.Column("itl_ms", sa.Float(), nullable=True),
        sa.Column("queue_ms", sa.Float(), nullable=True),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("device_s", sa.Float(), nullable=True),
        sa.Column("cost_usd", sa.Float(), nullable=True),
        sa.Column("finish_reason", sa.String(20), nullable=True),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_usage_endpoint_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_usage_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage")),
    )
    op.create_index("ix_usage_endpoint_time", "usage", ["endpoint_id", "created_at"], unique=False)
    op.create_index("ix_usage_key_id_created_at", "usage", ["key_id", "created_at"], unique=False)
    op.create_table(
        "tokenizers",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("vocab_size", sa.Integer(), nullable=True),
        sa.Column("folder", sa.String(300), nullable=True),
        sa.Column("dataset_version_id", sa.String(12), nullable=True),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name=op.f("fk_tokenizers_dataset_version_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_tokenizers_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokenizers")),
        sa.UniqueConstraint("name", name=op.f("uq_tokenizers_name")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("objective", sa.String(20), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("dataset_version_id", sa.String(12), nullable=True),
        sa.Column("architecture_id", sa.String(12), nullable=True),
        sa.Column("tokenizer_id", sa.String(12), nullable=True),
        sa.Column("base_id", sa.String(12), nullable=True),
        sa.Column("group_id", sa.String(12), nullable=True),
        sa.Column("parent_id", sa.String(12), nullable=True),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("last_step", sa.Integer(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("origin", sa.String(10), nullable=False),
        sa.Column("packed_to", sa.Integer(), nullable=False),
        sa.Column("curve_resets", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["architecture_id"], ["architectures.id"], name=op.f("fk_runs_architecture_id")),
        sa.ForeignKeyConstraint(["base_id"], ["checkpoints.id"], name=op.f("fk_runs_base_id"), use_alter=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_runs_created_by")),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name=op.f("fk_runs_dataset_version_id")
        ),
        sa.ForeignKeyConstraint(["group_id"], ["run_groups.id"], name=op.f("fk_runs_group_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_runs_job_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["runs.id"], name=op.f("fk_runs_parent_id")),
        sa.ForeignKeyConstraint(["tokenizer_id"], ["tokenizers.id"], name=op.f("fk_runs_tokenizer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("job_id", name=op.f("uq_runs_job_id")),
    )
    op.create_index("ix_runs_archived_at_created_at", "runs", ["archived_at", "created_at"], unique=False)
    op.create_index(op.f("ix_runs_base_id"), "runs", ["base_id"], unique=False)
    op.create_index(op.f("ix_runs_dataset_version_id"), "runs", ["dataset_version_id"], unique=False)
    op.create_index(op.f("ix_runs_group_id"), "runs", ["group_id"], unique=False)
    op.create_index(op.f("ix_runs_parent_id"), "runs", ["parent_id"], unique=False)
    op.create_table(
        "campaigns",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("dataset_version_id", sa.String(12), nullable=True),
        sa.Column("parent_id", sa.String(12), nullable=True),
        sa.Column("run_id", sa.String(12), nullable=True),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_campaigns_created_by")),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name=op.f("fk_campaigns_dataset_version_id")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["campaigns.id"], name=op.f("fk_campaigns_parent_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_campaigns_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
        sa.UniqueConstraint("name", name=op.f("uq_campaigns_name")),
        sa.UniqueConstraint("run_id", name=op.f("uq_campaigns_run_id")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(160), nullable=False),
        sa.Column("origin", sa.String(10), nullable=False),
        sa.Column("run_id", sa.String(12), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("parent_id", sa.String(12), nullable=True),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("folder", sa.String(300), nullable=True),
        sa.Column("source", sa.String(400), nullable=False),
        sa.Column("family", sa.String(40), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("is_adapter", sa.Boolean(), nullable=False),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["checkpoints.id"], name=op.f("fk_checkpoints_parent_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_checkpoints_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_checkpoints_name")),
        sa.UniqueConstraint("run_id", "step", name=op.f("uq_checkpoints_run_id_step")),
    )
    op.create_index(op.f("ix_checkpoints_parent_id"), "checkpoints", ["parent_id"], unique=False)
    op.create_index(op.f("ix_checkpoints_run_id"), "checkpoints", ["run_id"], unique=False)
    op.create_table(
        "measurements",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("origin", sa.String(10), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("run_id", sa.String(12), nullable=True),
        sa.Column("setting", sa.JSON(), nullable=False),
        sa.Column("setting_hash", sa.String(64), nullable=False),
        sa.Column("device", sa.String(80), nullable=False),
        sa.Column("host", sa.String(80), nullable=False),
        sa.Column("estimated_bytes", sa.BigInteger(), nullable=False),
        sa.Column("measured_bytes", sa.BigInteger(), nullable=False),
        sa.Column("tokens_per_s", sa.Float(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_measurements_job_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_measurements_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
    )
    op.create_index("ix_measurements_device_created_at", "measurements", ["device", "created_at"], unique=False)
    op.create_index(op.f("ix_measurements_job_id"), "measurements", ["job_id"], unique=False)
    op.create_index(op.f("ix_measurements_run_id"), "measurements", ["run_id"], unique=False)
    op.create_index(op.f("ix_measurements_setting_hash"), "measurements", ["setting_hash"], unique=False)
    op.create_table(
        "metric_blocks",
        sa.Column("run_id", sa.String(12), nullable=False),
        sa.Column("name_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("points", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["name_id"], ["metric_names.id"], name=op.f("fk_metric_blocks_name_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_metric_blocks_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name_id", "number", name=op.f("pk_metric_blocks")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "metric_points",
        sa.Column("run_id", sa.String(12), nullable=False),
        sa.Column("name_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["name_id"], ["metric_names.id"], name=op.f("fk_metric_points_name_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_metric_points_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name_id", "step", name=op.f("pk_metric_points")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_suites",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(12), nullable=False),
        sa.Column("suite_id", sa.String(12), nullable=False),
        sa.Column("moment", sa.String(10), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_suites_run_id")),
        sa.ForeignKeyConstraint(["suite_id"], ["suites.id"], name=op.f("fk_run_suites_suite_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_suites")),
        sa.UniqueConstraint("run_id", "suite_id", name=op.f("uq_run_suites_run_id_suite_id")),
    )
    op.create_index(op.f("ix_run_suites_suite_id"), "run_suites", ["suite_id"], unique=False)
    op.create_table(
        "samples",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(12), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_samples_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_samples")),
    )
    op.create_index("ix_samples_run_step", "samples", ["run_id", "step"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_aliases_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_aliases_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sa.UniqueConstraint("name", name=op.f("uq_aliases_name")),
    )
    op.create_index(op.f("ix_aliases_checkpoint_id"), "aliases", ["checkpoint_id"], unique=False)
    op.create_table(
        "analyses",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(30), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("dataset_version_id", sa.String(12), nullable=True),
        sa.Column("tokenizer_id", sa.String(12), nullable=True),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("other_checkpoint_id", sa.String(12), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("folder", sa.String(300), nullable=True),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_analyses_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_analyses_created_by")),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name=op.f("fk_analyses_dataset_version_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_analyses_job_id")),
        sa.ForeignKeyConstraint(
            ["other_checkpoint_id"], ["checkpoints.id"], name=op.f("fk_analyses_other_checkpoint_id")
        ),
        sa.ForeignKeyConstraint(["tokenizer_id"], ["tokenizers.id"], name=op.f("fk_analyses_tokenizer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_analyses")),
        sa.UniqueConstraint("job_id", name=op.f("uq_analyses_job_id")),
    )
    op.create_index(op.f("ix_analyses_checkpoint_id"), "analyses", ["checkpoint_id"], unique=False)
    op.create_index(op.f("ix_analyses_dataset_version_id"), "analyses", ["dataset_version_id"], unique=False)
    op.create_index("ix_analyses_kind_created_at", "analyses", ["kind", "created_at"], unique=False)
    op.create_index(op.f("ix_analyses_other_checkpoint_id"), "analyses", ["other_checkpoint_id"], unique=False)
    op.create_index(op.f("ix_analyses_tokenizer_id"), "analyses", ["tokenizer_id"], unique=False)
    op.create_table(
        "campaign_prompts",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("campaign_id", sa.String(12), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("turn", sa.String(20), server_default="", nullable=False),
        sa.Column("category", sa.String(80), server_default="", nullable=False),
        sa.Column("purpose", sa.String(8), server_default="vote", nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_campaign_prompts_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign_prompts")),
    )
    op.create_index(op.f("ix_campaign_prompts_campaign_id"), "campaign_prompts", ["campaign_id"], unique=False)
    op.create_table(
        "contestants",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("campaign_id", sa.String(12), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("kind", sa.String(12), server_default="checkpoint", nullable=False),
        sa.Column("label", sa.String(120), server_default="", nullable=False),
        sa.Column("source", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_contestants_campaign_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_contestants_checkpoint_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_contestants_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contestants")),
        sa.UniqueConstraint("campaign_id", "checkpoint_id", name=op.f("uq_contestants_campaign_id_checkpoint_id")),
    )
    op.create_index(op.f("ix_contestants_campaign_id"), "contestants", ["campaign_id"], unique=False)
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("endpoint_id", sa.String(12), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=False),
        sa.Column("num_replicas", sa.Integer(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("restores", sa.Integer(), nullable=True),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("traffic", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_deployments_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_deployments_created_by")),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_deployments_endpoint_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.create_index(op.f("ix_deployments_checkpoint_id"), "deployments", ["checkpoint_id"], unique=False)
    op.create_index(op.f("ix_deployments_endpoint_id"), "deployments", ["endpoint_id"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("endpoint_id", sa.String(12), nullable=True),
        sa.Column("dataset_version_id", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_evaluations_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_evaluations_created_by")),
        sa.ForeignKeyConstraint(
            ["dataset_version_id"], ["dataset_versions.id"], name=op.f("fk_evaluations_dataset_version_id")
        ),
        sa.ForeignKeyConstraint(["endpoint_id"], ["evaluated_endpoints.id"], name=op.f("fk_evaluations_endpoint_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evaluations_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_checkpoint_id"), "evaluations", ["checkpoint_id"], unique=False)
    op.create_index(op.f("ix_evaluations_dataset_version_id"), "evaluations", ["dataset_version_id"], unique=False)
    op.create_index(op.f("ix_evaluations_endpoint_id"), "evaluations", ["endpoint_id"], unique=False)
    op.create_index(op.f("ix_evaluations_fingerprint"), "evaluations", ["fingerprint"], unique=False)
    op.create_table(
        "frozen_boards",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("campaign_id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_frozen_boards_campaign_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_frozen_boards_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_frozen_boards")),
        sa.UniqueConstraint("campaign_id", "name", name=op.f("uq_frozen_boards_campaign_id_name")),
    )
    op.create_table(
        "gate_results",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("gate_id", sa.String(12), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=False),
        sa.Column("champion_id", sa.String(12), nullable=False),
        sa.Column("verdict", sa.String(12), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["champion_id"], ["checkpoints.id"], name=op.f("fk_gate_results_champion_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_gate_results_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_gate_results_created_by")),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_gate_results_gate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_results")),
    )
    op.create_index(op.f("ix_gate_results_champion_id"), "gate_results", ["champion_id"], unique=False)
    op.create_index(op.f("ix_gate_results_checkpoint_id"), "gate_results", ["checkpoint_id"], unique=False)
    op.create_index("ix_gate_results_gate_id_created_at", "gate_results", ["gate_id", "created_at"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("conversation_id", sa.String(12), nullable=False),
        sa.Column("parent_id", sa.String(12), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), server_default="0", nullable=False),
        sa.Column("branch", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(12), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.String(10), server_default="done", nullable=False),
        sa.Column("endpoint", sa.String(80), nullable=True),
        sa.Column("checkpoint_id", sa.String(12), nullable=True),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column("tokens", sa.JSON(), nullable=True),
        sa.Column("vote", sa.String(10), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_messages_checkpoint_id")),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name=op.f("fk_messages_conversation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
    )
    op.create_index(op.f("ix_messages_conversation_id"), "messages", ["conversation_id"], unique=False)
    op.create_table(
        "raters",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("user_id", sa.String(12), nullable=True),
        sa.Column("campaign_id", sa.String(12), nullable=True),
        sa.Column("link_hash", sa.String(64), nullable=True),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("single_use", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("browser_hash", sa.String(64), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_raters_campaign_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_raters_created_by")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_raters_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_raters")),
        sa.UniqueConstraint("link_hash", name=op.f("uq_raters_link_hash")),
        sa.UniqueConstraint("user_id", name=op.f("uq_raters_user_id")),
    )
    op.create_table(
        "suite_results",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("suite_id", sa.String(12), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("members", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("launched_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_suite_results_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_suite_results_created_by")),
        sa.ForeignKeyConstraint(["suite_id"], ["suites.id"], name=op.f("fk_suite_results_suite_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suite_results")),
    )
    op.create_index(op.f("ix_suite_results_checkpoint_id"), "suite_results", ["checkpoint_id"], unique=False)
    op.create_index(op.f("ix_suite_results_launched_at"), "suite_results", ["launched_at"], unique=False)
    op.create_index("ix_suite_results_suite_id_created_at", "suite_results", ["suite_id", "created_at"], unique=False)
    op.create_table(
        "completions",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("prompt_id", sa.String(12), nullable=False),
        sa.Column("contestant_id", sa.String(12), nullable=False),
        sa.Column("sample", sa.Integer(), server_default="0", nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.String(64), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["contestant_id"], ["contestants.id"], name=op.f("fk_completions_contestant_id")),
        sa.ForeignKeyConstraint(["prompt_id"], ["campaign_prompts.id"], name=op.f("fk_completions_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
        sa.UniqueConstraint(
            "prompt_id", "contestant_id", "sample", name=op.f("uq_completions_prompt_id_contestant_id_sample")
        ),
    )
    op.create_index(op.f("ix_completions_contestant_id"), "completions", ["contestant_id"], unique=False)
    op.create_index(op.f("ix_completions_prompt_id"), "completions", ["prompt_id"], unique=False)
    op.create_table(
        "evaluation_items",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("evaluation_id", sa.String(12), nullable=False),
        sa.Column("item_hash", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_items_evaluation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_items")),
        sa.UniqueConstraint("evaluation_id", "item_hash", name=op.f("uq_evaluation_items_evaluation_id_item_hash")),
    )
    op.create_index(op.f("ix_evaluation_items_evaluation_id"), "evaluation_items", ["evaluation_id"], unique=False)
    op.create_table(
        "judged_items",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(12), nullable=False),
        sa.Column("evaluation_id", sa.String(12), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("item", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(80), nullable=True),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_judged_items_evaluation_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_judged_items_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judged_items")),
        sa.UniqueConstraint("job_id", "item", name=op.f("uq_judged_items_job_id_item")),
    )
    op.create_index(op.f("ix_judged_items_evaluation_id"), "judged_items", ["evaluation_id"], unique=False)
    op.create_index(op.f("ix_judged_items_job_id"), "judged_items", ["job_id"], unique=False)
    op.create_table(
        "packed_items",
        sa.Column("evaluation_id", sa.String(12), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_packed_items_evaluation_id")),
        sa.PrimaryKeyConstraint("evaluation_id", name=op.f("pk_packed_items")),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("alias_id", sa.String(12), nullable=False),
        sa.Column("decision", sa.String(10), nullable=False),
        sa.Column("checkpoint_id", sa.String(12), nullable=False),
        sa.Column("previous_id", sa.String(12), nullable=True),
        sa.Column("campaign_id", sa.String(12), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["alias_id"], ["aliases.id"], name=op.f("fk_promotions_alias_id")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_promotions_campaign_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_promotions_checkpoint_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_promotions_created_by")),
        sa.ForeignKeyConstraint(["previous_id"], ["checkpoints.id"], name=op.f("fk_promotions_previous_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.create_index("ix_promotions_alias_id_created_at", "promotions", ["alias_id", "created_at"], unique=False)
    op.create_index(op.f("ix_promotions_campaign_id"), "promotions", ["campaign_id"], unique=False)
    op.create_index(op.f("ix_promotions_checkpoint_id"), "promotions", ["checkpoint_id"], unique=False)
    op.create_index(op.f("ix_promotions_previous_id"), "promotions", ["previous_id"], unique=False)
    op.create_table(
        "rater_exclusions",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("campaign_id", sa.String(12), nullable=False),
        sa.Column("rater_id", sa.String(12), nullable=False),
        sa.Column("excluded", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(12), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_rater_exclusions_campaign_id")),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_rater_exclusions_created_by")),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_rater_exclusions_rater_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rater_exclusions")),
    )
    op.create_index(op.f("ix_rater_exclusions_campaign_id"), "rater_exclusions", ["campaign_id"], unique=False)
    op.create_index(op.f("ix_rater_exclusions_rater_id"), "rater_exclusions", ["rater_id"], unique=False)
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("deployment_id", sa.String(12), nullable=False),
        sa.Column("job_id", sa.String(12), nullable=True),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("url", sa.String(300), nullable=True),
        sa.Column("internal_token", sa.String(64), nullable=False),
        sa.Column("gauges", sa.JSON(), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name=op.f("fk_replicas_deployment_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_replicas_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
        sa.UniqueConstraint("job_id", name=op.f("uq_replicas_job_id")),
    )
    op.create_index(op.f("ix_replicas_deployment_id"), "replicas", ["deployment_id"], unique=False)
    op.create_table(
        "scores",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("evaluation_id", sa.String(12), nullable=False),
        sa.Column("metric", sa.String(120), nullable=False),
        sa.Column("subgroup", sa.String(400), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("stderr", sa.Float(), nullable=True),
        sa.Column("low", sa.Float(), nullable=True),
        sa.Column("high", sa.Float(), nullable=True),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name=op.f("fk_scores_evaluation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scores")),
        sa.UniqueConstraint(
            "evaluation_id", "metric", "subgroup", name=op.f("uq_scores_evaluation_id_metric_subgroup")
        ),
    )
    op.create_table(
        "shadow_comparisons",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("deployment_id", sa.String(12), nullable=False),
        sa.Column("is_equal", sa.Boolean(), nullable=True),
        sa.Column("primary_tokens", sa.Integer(), nullable=False),
        sa.Column("shadow_tokens", sa.Integer(), nullable=False),
        sa.Column("primary_ttft_ms", sa.Float(), nullable=True),
        sa.Column("shadow_ttft_ms", sa.Float(), nullable=True),
        sa.Column("primary_total_ms", sa.Float(), nullable=False),
        sa.Column("shadow_total_ms", sa.Float(), nullable=False),
        sa.Column("error", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployments.id"], name=op.f("fk_shadow_comparisons_deployment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_comparisons")),
    )
    op.create_index(
        "ix_shadow_comparisons_deployment_time", "shadow_comparisons", ["deployment_id", "created_at"], unique=False
    )
    op.create_table(
        "answer_ratings",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("campaign_id", sa.String(12), nullable=False),
        sa.Column("completion_id", sa.String(12), nullable=False),
        sa.Column("rater_id", sa.String(12), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_answer_ratings_campaign_id")),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name=op.f("fk_answer_ratings_completion_id")),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_answer_ratings_rater_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer_ratings")),
        sa.UniqueConstraint(
            "completion_id", "rater_id", "revision", name=op.f("uq_answer_ratings_completion_id_rater_id_revision")
        ),
    )
    op.create_index(op.f("ix_answer_ratings_campaign_id"), "answer_ratings", ["campaign_id"], unique=False)
    op.create_index(op.f("ix_answer_ratings_rater_id"), "answer_ratings", ["rater_id"], unique=False)
    op.create_table(
        "battles",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("campaign_id", sa.String(12), nullable=False),
        sa.Column("prompt_id", sa.String(12), nullable=False),
        sa.Column("completion_a_id", sa.String(12), nullable=False),
        sa.Column("completion_b_id", sa.String(12), nullable=False),
        sa.Column("rater_id", sa.String(12), nullable=False),
        sa.Column("pair", sa.String(25), nullable=False),
        sa.Column("purpose", sa.String(10), server_default="vote", nullable=False),
        sa.Column("repeat_of_id", sa.String(12), nullable=True),
        sa.Column("sampling_probability", sa.Float(), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_battles_campaign_id")),
        sa.ForeignKeyConstraint(["completion_a_id"], ["completions.id"], name=op.f("fk_battles_completion_a_id")),
        sa.ForeignKeyConstraint(["completion_b_id"], ["completions.id"], name=op.f("fk_battles_completion_b_id")),
        sa.ForeignKeyConstraint(["prompt_id"], ["campaign_prompts.id"], name=op.f("fk_battles_prompt_id")),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_battles_rater_id")),
        sa.ForeignKeyConstraint(["repeat_of_id"], ["battles.id"], name=op.f("fk_battles_repeat_of_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_battles")),
        sa.UniqueConstraint(
            "rater_id", "prompt_id", "pair", "purpose", name=op.f("uq_battles_rater_id_prompt_id_pair_purpose")
        ),
    )
    op.create_index("ix_battles_campaign_id_served_at", "battles", ["campaign_id", "served_at"], unique=False)
    op.create_index("ix_battles_campaign_rater", "battles", ["campaign_id", "rater_id"], unique=False)
    op.create_table(
        "votes",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("battle_id", sa.String(12), nullable=False),
        sa.Column("rater_id", sa.String(12), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(10), nullable=False),
        sa.Column("supersedes_id", sa.String(12), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("reasons", sa.JSON(), server_default="[]", nullable=False),
        sa.Column("dimensions", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("rewrite", sa.Text(), nullable=True),
        sa.Column("flag", sa.String(200), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["battle_id"], ["battles.id"], name=op.f("fk_votes_battle_id")),
        sa.ForeignKeyConstraint(["rater_id"], ["raters.id"], name=op.f("fk_votes_rater_id")),
        sa.ForeignKeyConstraint(["supersedes_id"], ["votes.id"], name=op.f("fk_votes_supersedes_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_votes")),
        sa.UniqueConstraint("battle_id", "revision", name=op.f("uq_votes_battle_id_revision")),
        sa.UniqueConstraint("supersedes_id", name=op.f("uq_votes_supersedes_id")),
    )
    op.create_index(op.f("ix_votes_battle_id"), "votes", ["battle_id"], unique=False)
    op.create_index(op.f("ix_votes_created_at"), "votes", ["created_at"], unique=False)
    op.create_index(op.f("ix_votes_rater_id"), "votes", ["rater_id"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        _finish_postgresql()


def _finish_postgresql() -> None:
    """Add the key that closes the circle of runs and checkpoints, and the triggers that announce changes of keys and
    accounts.

    SQLite has the key in the text of its table, and counts commits instead (backend/db/changes.py).
    """
    op.create_foreign_key("fk_runs_base_id", "runs", "checkpoints", ["base_id"], ["id"])
    op.execute(
        "CREATE FUNCTION roundhouse_announce_keys() RETURNS trigger AS "
        "$$ BEGIN PERFORM pg_notify('roundhouse_keys', ''); RETURN NULL; END $$ LANGUAGE plpgsql"
    )
    op.execute(
        "CREATE TRIGGER roundhouse_keys AFTER INSERT OR DELETE OR "
        "UPDATE OF name, key_hash, user_id, scopes, limits, expires_at, revoked_at ON api_keys "
        "FOR EACH STATEMENT EXECUTE FUNCTION roundhouse_announce_keys()"
    )
    op.execute(
        "CREATE TRIGGER roundhouse_accounts AFTER DELETE OR UPDATE OF role, disabled_at ON users "
        "FOR EACH STATEMENT EXECUTE FUNCTION roundhouse_announce_keys()"
    )
