"""Frequent queries find their rows by an index, however large the tables grow."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from backend.db.tables import Checkpoint, Dataset, DatasetVersion, Evaluation, Run
from backend.domain.jobs.states import JobKind
from backend.services.battles.views import list_campaigns
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.jobs.gangs import choose_gang
from backend.services.jobs.jobs import read_log
from backend.services.jobs.queue_position import queue_ahead
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import list_workers
from backend.services.metrics.curves import CurveCache
from backend.services.metrics.points import last_values
from backend.services.overview import get_overview, get_strip
from backend.services.serving.endpoints import list_endpoints
from backend.services.serving.replicas import ready_targets
from backend.services.training.live import active_run_ids, queue_counts, run_states
from backend.services.training.views import list_sample_steps, list_samples
from tests.support.battle_world import next_battle
from tests.support.evaluation_world import list_items
from tests.support.jobs import add_stored_job

GROWING = (
    "jobs|metric_points|evaluation_items|usage|log_lines|samples|messages|votes|battles|completions|campaign_prompts"
)


def ask_ballot(ctx: Context, ids: dict[str, str]) -> None:
    from backend.domain.battles.campaign import CampaignConfig
    from backend.services.battles.campaigns import insert_campaign
    from backend.services.battles.raters import rater_for

    prompts = [[{"role": "user", "content": "Who keeps the roundhouse?"}]]
    with ctx.db.write() as session:
        campaign = insert_campaign(
            session,
            ctx,
            name="Autumn",
            prompts=prompts,
            config=CampaignConfig(),
            person=LOCAL,
            dataset_version_id=ids["version"],
        ).id
    next_battle(ctx, campaign, rater_for(ctx, LOCAL))
    list_campaigns(ctx)


QUERIES: dict[str, Callable[[Context, dict[str, str]], Any]] = {
    "a worker's claim": lambda ctx, ids: claim_next(ctx, "train", owner="w#1", host="lab"),
    "recovery": lambda ctx, ids: recover_jobs(ctx),
    "the live list": lambda ctx, ids: (active_run_ids(ctx), queue_counts(ctx), run_states(ctx, [ids["run"]])),
    "the live curve": lambda ctx, ids: CurveCache().points_json(ctx, ids["run"], after={}, resets=None),
    "the newest values": lambda ctx, ids: last_values(ctx, ids["run"]),
    "a place in the queue": lambda ctx, ids: queue_ahead(ctx, ids["job"]),
    "the log": lambda ctx, ids: read_log(ctx, ids["job"]),
    "the samples": lambda ctx, ids: (list_sample_steps(ctx, ids["run"]), list_samples(ctx, ids["run"], step=1)),
    "the workers": lambda ctx, ids: list_workers(ctx),
    "the endpoints": lambda ctx, ids: (list_endpoints(ctx), ready_targets(ctx)),
    "the items": lambda ctx, ids: list_items(ctx, ids["evaluation"], which="wrong"),
    "the ballot": ask_ballot,
    "the first page": lambda ctx, ids: (get_overview(ctx, person=LOCAL), get_strip(ctx)),
}


@pytest.fixture
def ctx(ctx_sqlite: Context) -> Context:
    """On SQLite, whose plans don't depend on what tables hold."""
    return ctx_sqlite


@pytest.fixture
def ids(ctx: Context) -> dict[str, str]:
    """One row of each kind: which plan SQLite takes does not depend on how many there are."""
    with ctx.db.write() as session:
        job = add_stored_job(session, ctx, JobKind.TRAIN, title="Train")
        run = Run(name="first", objective="pretrain", config={}, job_id=job.id)
        checkpoint = Checkpoint(name="Oak", origin="added", folder="bases/oak")
        dataset = Dataset(name="facts", kind="benchmark")
        session.add_all([run, checkpoint, dataset])
        session.flush()
        version = DatasetVersion(dataset_id=dataset.id, number=1, folder="datasets/facts")
        session.add(version)
        session.flush()
        evaluation = Evaluation(
            checkpoint_id=checkpoint.id, dataset_version_id=version.id, kind="multiple_choice", job_id=job.id
        )
        session.add(evaluation)
        session.flush()
        return {"job": job.id, "run": run.id, "version": version.id, "evaluation": evaluation.id}


@pytest.mark.parametrize("query", QUERIES)
def test_no_table_that_grows_is_read_from_end_to_end(ctx: Context, ids: dict[str, str], query: str) -> None:
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE")) and not many:
            statements.append((statement, parameters))

    event.listen(ctx.db.engine, "before_cursor_execute", note)
    QUERIES[query](ctx, ids)
    event.remove(ctx.db.engine, "before_cursor_execute", note)
    assert statements
    with ctx.db.engine.connect() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            scans = [row[3] for row in plan if re.match(rf"SCAN ({GROWING})\b", row[3]) and "LIMIT" not in statement]
            assert not scans, f"{scans}\n{statement}"


def test_runs_over_several_machines_are_not_looked_for_among_all_that_wait(ctx: Context, ids: dict[str, str]) -> None:
    """Each claim asks for them: with 100,000 queued jobs it took five times as long."""
    plans: list[str] = []

    def note(connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if "num_machines >" in statement and not statement.startswith("EXPLAIN"):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            plans.extend(row[3] for row in plan)

    event.listen(ctx.db.engine, "before_cursor_execute", note)
    assert choose_gang(ctx, "train", host="lab") is None
    event.remove(ctx.db.engine, "before_cursor_execute", note)
    assert "SEARCH jobs USING INDEX ix_jobs_gangs (status=? AND queue=? AND num_machines>?)" in plans
