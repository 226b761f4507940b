"""A hundred jobs and a sweep of twelve before two workers: priorities and dependencies hold, and nothing runs twice."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from backend.db.tables import Job
from backend.domain.jobs.states import TERMINAL, JobKind, Status
from backend.domain.training.sweep import parse_sweep
from backend.services.context import LOCAL, Context
from backend.services.training.sweeps import launch_sweep, sweep_detail
from tests.support.installation import wait_until
from tests.support.jobs import add_stored_job
from tests.support.run_world import make_config
from tests.support.scenario import Scenario
from tests.support.workers.workers import site

pytestmark = pytest.mark.timeout(900)

NUM_JOBS, NUM_RUNS = 100, 12


def add_jobs(ctx: Context) -> dict[str, Job]:
    """Queue jobs of all priorities, a third of them behind an earlier one."""
    draw = random.Random(7)
    ids: list[str] = []
    with ctx.db.write() as session:
        for number in range(NUM_JOBS):
            before = draw.choice(ids) if ids and draw.random() < 1 / 3 else None
            job = add_stored_job(
                session,
                ctx,
                JobKind.TRAIN,
                title=f"job {number}",
                priority=draw.randint(0, 9),
                device="cpu",
                depends_on=before,
            )
            ids.append(job.id)
    with ctx.db.read() as session:
        return {job_id: session.get_one(Job, job_id) for job_id in ids}


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def rank(job: Job) -> tuple[int, Any, str]:
    """The order in which jobs are to be taken."""
    return job.priority, job.created_at, job.id


def test_a_hundred_jobs_and_a_sweep_keep_their_order_on_two_workers_and_run_once(home: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    with site(home) as running:
        jobs = add_jobs(running.ctx)
        launch_twelve(running.ctx)
        module, environment = "tests.support.workers.queue_worker", {"QUEUE_TEST_LINES": str(lines)}
        with running.worker(module, name="one", **environment), running.worker(module, name="two", **environment):
            wait_until(lambda: len(read_lines(lines)) >= NUM_JOBS + NUM_RUNS, timeout_s=200, what="the last job")
            wait_until(lambda: sweep_detail(running.ctx, "twelve").sweep.done, what="the end of the sweep")
        check(running.ctx, jobs, read_lines(lines))


def launch_twelve(ctx: Context) -> None:
    """Launch a sweep of twelve runs, four at a time."""
    Scenario(ctx).parts()
    run = make_config(device="cpu").model_dump(mode="json")
    vary = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    config = {"name": "twelve", "run": run, "vary": vary, "method": "bayesian", "runs": NUM_RUNS, "parallel": 4}
    launch_sweep(ctx, parse_sweep(config), person=LOCAL)


def check(ctx: Context, jobs: dict[str, Job], done: list[dict[str, Any]]) -> None:
    """Every job ran once, behind the one it depends on and before those of lower priority; both workers had a part."""
    detail = sweep_detail(ctx, "twelve")
    with ctx.db.read() as session:
        jobs |= {str(each.run.job_id): session.get_one(Job, str(each.run.job_id)) for each in detail.runs}
        assert all(session.get_one(Job, job_id).status in TERMINAL for job_id in jobs)
    assert sorted(line["job"] for line in done) == sorted(jobs), "every job once"
    assert {line["attempt"] for line in done} == {1}
    assert len({line["worker"] for line in done}) == 2, "both workers had a part"
    assert [each.run.status for each in detail.runs] == [Status.FINISHED] * NUM_RUNS
    assert detail.best is not None
    check_dependencies(jobs, done)
    check_priorities(jobs, done)


def check_dependencies(jobs: dict[str, Job], done: list[dict[str, Any]]) -> None:
    """A job began after the one it waits for had ended."""
    times = {line["job"]: line for line in done}
    behind = [job for job in jobs.values() if job.depends_on_id]
    assert len(behind) > 20
    for job in behind:
        assert times[job.id]["began"] >= times[str(job.depends_on_id)]["began"]


def check_priorities(jobs: dict[str, Job], done: list[dict[str, Any]]) -> None:
    """No worker took a job while a better one could be had: one that was taken by the other afterwards for sure.

    A worker takes its next job after its last one has ended and before it begins; in between nobody can say when.
    """
    last: dict[int, float] = {}
    taken: list[tuple[str, float, float]] = []  # job, taken after, taken before
    for line in sorted(done, key=lambda line: line["began"]):
        taken.append((line["job"], last.get(line["worker"], 0.0), line["began"]))
        last[line["worker"]] = line["ended"]
    ended = {line["job"]: line["ended"] for line in done}
    compared = 0
    for job_id, after, before in taken:
        for other_id, other_after, _ in taken:
            job, other = jobs[job_id], jobs[other_id]
            eligible = other.depends_on_id is None or ended[str(other.depends_on_id)] < after
            if eligible and other_after > before and job.title.startswith("job") and other.title.startswith("job"):
                compared += 1
                assert rank(job) < rank(other), f"{job.title} was taken before {other.title}"
    assert compared > 1000
