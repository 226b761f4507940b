"""Working folders of ended jobs go after some days, and nothing that anybody still looks at."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.db.tables import Job
from backend.domain.jobs.states import JobKind, Status
from backend.infra.artifacts import Artifacts
from backend.services.context import Context, OperatorPolicy
from backend.services.jobs.claims import claim_next, end_job, give_back
from backend.services.jobs.folders import remove_job_folders
from backend.services.jobs.jobs import get_job, read_log
from tests.support.jobs import add_stored_job
from tests.support.run_world import claim, end, points, report
from tests.support.scenario import Scenario


def ended(ctx: Context, status: Status = Status.FINISHED, *, result: dict[str, Any] | None = None) -> str:
    """A job that ended just now and left a file in its folder."""
    job_id = queued(ctx)
    taken = claim_next(ctx, "cpu", owner="w", host="h")
    assert taken is not None
    with ctx.db.write() as session:
        end_job(session, ctx, taken, status)
        session.get_one(Job, job_id).result = {key: text.format(job_id) for key, text in (result or {}).items()}
    return job_id


def queued(ctx: Context) -> str:
    with ctx.db.write() as session:
        job_id = add_stored_job(session, ctx, JobKind.TRAIN_TOKENIZER).id
    work = ctx.artifacts.job_folder(job_id) / "attempt-1"
    work.mkdir()
    (work / "events.jsonl").write_text("{}")
    return job_id


def later(ctx: Context, days: float, *, keep: float = 30.0) -> Context:
    now = ctx.now() + timedelta(days=days)
    return replace(ctx, now=lambda: now, policy=OperatorPolicy(keep_job_folders_days=keep))


def folders(ctx: Context) -> set[str]:
    return {folder.name for folder in (ctx.artifacts.root / "jobs").iterdir()}


@pytest.mark.parametrize("status", [Status.FINISHED, Status.FAILED, Status.CANCELLED])
def test_a_folder_is_deleted_as_many_days_after_the_jobs_end_as_the_policy_says(ctx: Context, status: Status) -> None:
    job_id = ended(ctx, status)
    assert remove_job_folders(later(ctx, 29)) == 0
    assert folders(ctx) == {job_id}
    assert remove_job_folders(later(ctx, 31, keep=0)) == 0, "0 keeps them"
    assert remove_job_folders(later(ctx, 31)) == 1
    assert folders(ctx) == set()
    assert get_job(ctx, job_id).status is status


def test_the_folder_of_a_machine_that_is_gone_goes_from_the_store(ctx: Context, tmp_path: Path) -> None:
    """Each machine looked at its own disk alone."""
    url = (tmp_path / "store").as_uri()
    gone, stays = (
        replace(ctx, artifacts=Artifacts(root, url=url, cache_gb=1)) for root in (ctx.artifacts.root, tmp_path / "b")
    )
    old, kept = ended(gone), ended(gone, result={"folder": "jobs/{}"})
    store, outbox = stays.artifacts.store, stays.artifacts.outbox
    assert store is not None
    assert outbox is not None
    assert gone.artifacts.store is not None
    for job_id in (old, kept):
        (gone.artifacts.job_folder(job_id) / "answers").write_text("42")
        gone.artifacts.store.send(f"jobs/{job_id}")
    assert remove_job_folders(later(stays, 29)) == 0
    assert remove_job_folders(later(stays, 31)) == 1
    outbox.finish(within_s=60, is_patient=True)
    assert store.list_folders("jobs") == [f"jobs/{kept}"]
    assert remove_job_folders(later(stays, 31)) == 0


def test_folders_of_active_and_unknown_jobs_are_kept(ctx: Context) -> None:
    first = queued(ctx)
    taken = claim_next(ctx, "cpu", owner="w", host="h")
    assert taken is not None
    waiting = queued(ctx)
    (ctx.artifacts.root / "jobs" / "somebodys").mkdir()
    assert remove_job_folders(later(ctx, 400)) == 0
    give_back(ctx, taken)
    assert remove_job_folders(later(ctx, 400)) == 0
    assert folders(ctx) == {first, waiting, "somebodys"}


def test_a_folder_whose_file_is_the_jobs_result_stays(ctx: Context) -> None:
    answers, plain = (
        ended(ctx, result={"file": "jobs/{}/completions.jsonl"}),
        ended(ctx, result={"folder": "datasets/d/1"}),
    )
    assert remove_job_folders(later(ctx, 31)) == 1
    assert folders(ctx) == {answers}
    assert plain not in folders(ctx)


def test_folders_are_deleted_in_small_batches(ctx: Context) -> None:
    for _ in range(5):
        ended(ctx)
    assert [remove_job_folders(later(ctx, 31), limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_runs_log_curves_and_checkpoints_outlast_its_jobs_folder(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    taken = claim(ctx, run)
    report(ctx, taken, *points(1, 5), {"type": "log", "text": "step five", "time": 1.0})
    end(ctx, taken, Status.FINISHED)
    checkpoint = ctx.artifacts.folder("runs", run.id) / "checkpoints" / "step-5"
    checkpoint.mkdir(parents=True)
    (ctx.artifacts.job_folder(taken.job_id) / "train.tokens").write_bytes(b"0" * 100)
    assert remove_job_folders(later(ctx, 31)) == 1
    assert taken.job_id not in folders(ctx)
    assert checkpoint.is_dir()
    assert "step five" in read_log(ctx, taken.job_id)
    with ctx.db.read() as session:
        assert session.get_one(Job, taken.job_id).status == Status.FINISHED
