"""subgroups of scores, whole names, and the perplexity of tokens by its own name

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

AVERAGES = ("macro", "micro")
"""Parts of a name that are no subgroup: `acc:micro`."""
_scores = sa.table("scores", *(sa.column(name) for name in ("id", "metric", "subgroup")))
_evaluations = sa.table("evaluations", sa.column("id"), sa.column("config", sa.JSON()))


def upgrade() -> None:
    with op.batch_alter_table("scores") as batch_op:
        batch_op.add_column(sa.Column("subgroup", sa.String(length=400), nullable=False, server_default=""))
        batch_op.alter_column("metric", type_=sa.String(length=120), existing_type=sa.String(length=40), existing_nullable=False)
        batch_op.alter_column("method", type_=sa.String(length=200), existing_type=sa.String(length=60), existing_nullable=False)
        batch_op.drop_constraint(op.f("uq_scores_evaluation_id_metric"), type_="unique")
    connection = op.get_bind()
    for row in connection.execute(sa.select(_scores.c.id, _scores.c.metric).where(_scores.c.metric.like("%:%"))).all():
        metric, _, subgroup = row.metric.partition(":")
        if subgroup not in AVERAGES:
            connection.execute(sa.update(_scores).where(_scores.c.id == row.id).values(metric=metric, subgroup=subgroup or "unnamed"))
    _rename("perplexity", "token_perplexity")
    with op.batch_alter_table("scores") as batch_op:
        batch_op.alter_column("subgroup", server_default=None, existing_type=sa.String(length=400), existing_nullable=False)
        batch_op.create_unique_constraint(op.f("uq_scores_evaluation_id_metric_subgroup"), ["evaluation_id", "metric", "subgroup"])


def downgrade() -> None:
    with op.batch_alter_table("scores") as batch_op:
        batch_op.drop_constraint(op.f("uq_scores_evaluation_id_metric_subgroup"), type_="unique")
    connection = op.get_bind()
    _rename("token_perplexity", "perplexity")
    for row in connection.execute(sa.select(_scores).where(_scores.c.subgroup != "")).all():
        name = f"{row.metric}:{row.subgroup}"
        if len(name) > 40:  # names that the table before can't hold
            connection.execute(sa.delete(_scores).where(_scores.c.id == row.id))
        else:
            connection.execute(sa.update(_scores).where(_scores.c.id == row.id).values(metric=name))
    with op.batch_alter_table("scores") as batch_op:
        batch_op.drop_column("subgroup")
        batch_op.alter_column("metric", type_=sa.String(length=40), existing_type=sa.String(length=120), existing_nullable=False)
        batch_op.alter_column("method", type_=sa.String(length=60), existing_type=sa.String(length=200), existing_nullable=False)
        batch_op.create_unique_constraint(op.f("uq_scores_evaluation_id_metric"), ["evaluation_id", "metric"])


def _rename(before: str, after: str) -> None:
    """Rename a metric in the scores, and in the tasks that finished evaluations hold."""
    connection = op.get_bind()
    for ending in ("", *(f":{average}" for average in AVERAGES)):
        old, new = before + ending, after + ending
        connection.execute(sa.update(_scores).where(_scores.c.metric == old).values(metric=new))
    for row in connection.execute(sa.select(_evaluations)).all():
        task = ((row.config or {}).get("config") or {}).get("task") or {}
        uses = task.get("metrics") or []
        if any(isinstance(use, dict) and use.get("name") == before for use in uses):
            for use in uses:
                if use.get("name") == before:
                    use["name"] = after
            connection.execute(sa.update(_evaluations).where(_evaluations.c.id == row.id).values(config=row.config))
