"""What a worker does at each heartbeat beside the heartbeat."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from operator import add
from types import SimpleNamespace

import pytest

from backend.db.tables import SuiteResult
from backend.domain.evaluation.suites import SuiteConfig
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import LOCAL, Context
from backend.services.evaluation.open_suites import list_open_results
from backend.services.evaluation.suites import create_suite, list_suite_results
from backend.services.health import check_workers
from backend.services.jobs.jobs import get_job
from backend.services.jobs.recovery import Recovery
from backend.services.jobs.workers import list_workers
from jobs import celery_app
from tests.support.jobs import add_stored_job
from tests.support.scenario import Scenario


def test_a_worker_launches_the_evaluations_of_suites_that_training_runs_opened(
    any_ctx: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ctx = any_ctx
    checkpoint_id = Scenario(ctx).checkpoint("Oak")
    Scenario(ctx).benchmark("facts")
    suite = create_suite(ctx, SuiteConfig.model_validate({"name": "core", "members": ["facts"]}), person=LOCAL)
    with ctx.db.write() as session:  # as the recorder of a run's checkpoint adds it
        row = SuiteResult(
            suite_id=suite.id,
            checkpoint_id=checkpoint_id,
            config=suite.config.model_dump(mode="json"),
            created_at=ctx.now(),
        )
        session.add(row)
    monkeypatch.setattr(celery_app, "get_context", lambda: ctx)
    caplog.set_level("WARNING")
    celery_app._recover(["train"])
    assert len(list_open_results(ctx)) == 1  # launched by the workers of the queue `eval` alone
    celery_app._recover(["eval"])
    assert list_open_results(ctx) == []
    assert list_suite_results(ctx)[0].members[0].evaluation is not None
    assert caplog.records == []  # no part of the sweep failed, on either database


def test_a_part_of_a_sweep_that_fails_keeps_no_other_from_its_turn(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def fails(_: Context, *__: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(celery_app, "get_context", lambda: ctx)
    monkeypatch.setattr(celery_app, "recover_jobs", fails)
    monkeypatch.setattr(celery_app, "advance_endpoints", fails)
    monkeypatch.setattr(celery_app, "list_open_sweeps", fails)
    monkeypatch.setattr(celery_app, "list_open_results", lambda _: ["first", "second"])
    monkeypatch.setattr("backend.services.evaluation.suites.launch_members", fails)
    monkeypatch.setattr(celery_app, "autoscale_endpoints", lambda _: done.append("autoscaled"))
    monkeypatch.setattr(celery_app, "release_scored", lambda _: done.append("released"))
    celery_app._recover(["serve", "train", "eval"])
    assert done == ["autoscaled", "released"]
    failures = [record.getMessage() for record in caplog.records]
    assert len(failures) == 5
    assert all("the disk is full" in text for text in failures)
    assert any("suite result second" in text for text in failures)


def test_of_two_workers_one_alone_looks_after_the_queue_and_both_after_a_while(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    start = ctx.now()
    monkeypatch.setattr(celery_app, "recover_jobs", lambda _: looks.append("recovery") or Recovery())
    monkeypatch.setattr(celery_app, "advance_endpoints", lambda _: looks.append("endpoints"))
    for seconds in (0.0, 0.5, celery_app.settings.sweep_s):
        then = replace(ctx, now=partial(add, start, timedelta(seconds=seconds)))
        monkeypatch.setattr(celery_app, "get_context", lambda then=then: then)
        celery_app._recover(["serve", "train"])
        celery_app._recover(["train"])
    assert looks == ["endpoints", "recovery"] * 2


def test_a_worker_older_than_the_database_submits_nothing(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[str] = []
    reasons = iter(["A newer version has upgraded the database", ""])
    waits = iter([False, False, True])
    provider = SimpleNamespace(name="slurm")
    monkeypatch.setattr(celery_app, "get_context", lambda: replace(ctx, providers=(provider,)))
    monkeypatch.setattr(celery_app, "explain_newer_database", lambda _: next(reasons))
    monkeypatch.setattr(celery_app, "heart_stopped", SimpleNamespace(wait=lambda _: next(waits)))
    monkeypatch.setattr("backend.services.jobs.submissions.tend_submissions", lambda _, one: submitted.append(one.name))
    celery_app._submission_loop()
    assert submitted == ["slurm"], "in the second round alone"
    assert list(reasons) == []


def test_a_worker_whose_disk_is_full_takes_no_job_and_says_why(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job of the queue failed within a second, one after the other."""
    with ctx.db.write() as session:
        job_id = add_stored_job(session, ctx, JobKind.TRAIN, title="waits").id
    monkeypatch.setattr(celery_app, "get_context", lambda: ctx)
    monkeypatch.setattr(celery_app.slots, "closed", False)
    monkeypatch.setattr(ctx.artifacts, "free_bytes", lambda: 1000)
    assert not celery_app._run_next("train")
    assert get_job(ctx, job_id).status is Status.QUEUED
    assert celery_app.slots.closed
    celery_app._beat(["train"], takes_no_jobs=celery_app._check_disk(ctx))
    (worker,) = list_workers(ctx)
    assert not worker.takes_jobs
    outage = check_workers(ctx)
    assert outage is not None
    assert "is full (1.0 kB free): it takes jobs again once 2.1 MB are free." in outage.cause
    monkeypatch.setattr(ctx.artifacts, "free_bytes", lambda: 10**12)
    assert celery_app._check_version(ctx) == celery_app._check_disk(ctx) == ""
    assert not celery_app.slots.closed
