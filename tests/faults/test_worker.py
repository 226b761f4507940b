"""One worker process for all queues: its limits, and what becomes of its jobs when it stops, dies or freezes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from backend.bootstrap import newest_revision
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, get_job, request_stop, wake
from backend.services.jobs.workers import has_worker, list_workers
from tests.support.data.imports import HEAVY
from tests.support.installation import PROJECT, is_alive, wait_until
from tests.support.jobs import add_stored_job
from tests.support.workers.workers import Site, site

pytestmark = pytest.mark.timeout(900)

TRANSACTIONS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND state LIKE 'idle in transaction%'"""
SLEEPING = "tests.support.workers.sleeping_worker"


@pytest.fixture
def running(home: Path) -> Iterator[Site]:
    """A broker and a database."""
    with site(home) as there:
        yield there


def submit(ctx: Context, kind: JobKind = JobKind.EXPORT, **payload: Any) -> str:
    with ctx.db.write() as session:
        job = add_stored_job(session, ctx, kind, title=kind.value, payload=payload)
        job_id, queue = job.id, job.queue
    wake(ctx, queue)
    return job_id


def wait_for(ctx: Context, job_id: str, status: Status, *, attempt: int = 1) -> JobView:
    def there() -> JobView | None:
        job = get_job(ctx, job_id)
        return job if job.status == status and job.attempt >= attempt else None

    job: JobView = wait_until(there, what=f"{status} in attempt {attempt} or later")
    return job


def children_of(worker: subprocess.Popen[bytes], *, count: int = 1) -> list[psutil.Process]:
    """Return the processes of a worker's jobs, once they sleep."""

    def there() -> list[psutil.Process]:
        try:
            processes = [
                child for child in psutil.Process(worker.pid).children(recursive=True) if "--child" in child.cmdline()
            ]
        except psutil.Error:  # a process that has just ended has no command line
            return []
        return processes if len(processes) == count else []

    children: list[psutil.Process] = wait_until(there, what=f"{count} children")
    return children


def freeze(worker: subprocess.Popen[bytes], ctx: Context) -> None:
    """Stop a worker between two of its transactions: in one it would hold SQLite's lock, and nobody else could
    write, or rows of PostgreSQL.
    """

    def is_frozen() -> bool:
        worker.send_signal(signal.SIGSTOP)
        if not ctx.db.is_sqlite:
            with ctx.db.read() as session:
                is_within = bool(session.scalar(text(TRANSACTIONS)))
            if is_within:
                worker.send_signal(signal.SIGCONT)
            return not is_within
        try:
            with closing(sqlite3.connect(str(ctx.db.engine.url.database), timeout=1)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            worker.send_signal(signal.SIGCONT)
            return False
        return True

    wait_until(is_frozen, what="a moment without a transaction")


def most_at_once(lines: list[dict[str, Any]]) -> int:
    """Return how many jobs ran at the same time."""
    moments = sorted([(line["began"], 1) for line in lines] + [(line["ended"], -1) for line in lines])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def test_every_queue_has_its_configured_slots_and_a_full_queue_blocks_no_other(running: Site, tmp_path: Path) -> None:
    queues = {
        JobKind.TRAIN: ("train", 1),
        JobKind.LOGLIKELIHOOD: ("eval", 1),
        JobKind.REPLICA: ("serve", 3),
        JobKind.EXPORT: ("cpu", 2),
    }
    per_kind = 5
    for _ in range(per_kind):
        for kind in queues:
            submit(running.ctx, kind, seconds=1.2)
    lines = tmp_path / "lines"
    environment = {"QUEUE_TEST_LINES": str(lines), "ROUNDHOUSE_REPLICA_SLOTS": "3"}

    def done() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        return records if len(records) == per_kind * len(queues) else []

    with running.worker("tests.support.workers.queue_worker", queues="train,eval,serve,cpu", threads=7, **environment):
        ran = wait_until(done, what="all jobs")
        shown = {worker.queues[0]: worker.concurrency for worker in list_workers(running.ctx)}
    assert Counter(line["kind"] for line in ran) == dict.fromkeys(queues, per_kind)
    assert {kind: most_at_once([line for line in ran if line["kind"] == kind]) for kind in queues} == {
        k: n for k, (_, n) in queues.items()
    }
    assert most_at_once(ran) > 4, "queues run beside each other"
    assert shown == dict(queues.values())


def test_a_killed_worker_ends_its_children_also_those_of_reused_threads(running: Site) -> None:
    lease = {"ROUNDHOUSE_LEASE_S": "8"}  # long enough that a busy machine loses no lease by itself
    with running.worker(SLEEPING, queues="cpu", threads=2, **lease) as worker:
        for job_id in [submit(running.ctx, seconds=0.1) for _ in range(4)]:
            wait_for(running.ctx, job_id, Status.FINISHED)
        long = [submit(running.ctx, seconds=600, stubborn=True) for _ in range(2)]
        children = children_of(worker, count=2)
        assert not wait_quietly(worker, children), "children outlive the work of other threads"
        worker.kill()
        wait_until(lambda: not any(is_alive(child) for child in children), what="the end of the children")
    with running.worker(SLEEPING, queues="cpu", threads=2, name="two", **lease):
        for job_id in long:
            wait_for(running.ctx, job_id, Status.RUNNING, attempt=2)


def wait_quietly(worker: subprocess.Popen[bytes], children: list[psutil.Process]) -> bool:
    """Watch for two seconds, eight looks of the runner, whether a child ends without being asked to."""
    gone, _ = psutil.wait_procs(children, timeout=2)
    return bool(gone) or worker.poll() is not None


def test_a_worker_that_is_told_to_quit_puts_its_jobs_back_at_once_and_leaves_no_process(running: Site) -> None:
    with running.worker(SLEEPING, queues="cpu", threads=2) as worker:
        jobs = [submit(running.ctx, seconds=600), submit(running.ctx, seconds=600, stubborn=True)]
        children = children_of(worker, count=2)
        worker.send_signal(signal.SIGQUIT)
        worker.wait(300)
        assert not any(is_alive(child) for child in children)
    assert [get_job(running.ctx, job_id).status for job_id in jobs] == [Status.QUEUED] * 2
    with running.worker(SLEEPING, queues="cpu", threads=2, name="two"):
        for job_id in jobs:
            wait_for(running.ctx, job_id, Status.RUNNING, attempt=2)


def test_an_idle_worker_ends_at_once(running: Site) -> None:
    with running.worker(SLEEPING, queues="train,eval,serve,cpu", threads=12) as worker:
        wait_until(lambda: len(list_workers(running.ctx)) == 4, what="the heartbeats")
        worker.send_signal(signal.SIGQUIT)
        # no thread holds it for its tick of minutes; where all cores are taken even that needs many seconds
        worker.wait(300)


def test_a_frozen_worker_loses_its_job_to_another_and_is_fenced_when_it_wakes(running: Site) -> None:
    lease = {"ROUNDHOUSE_LEASE_S": "8"}  # long enough that a busy machine loses no lease by itself
    with running.worker(SLEEPING, queues="cpu", threads=1, **lease) as frozen:
        job_id = submit(running.ctx, seconds=600)
        (child,) = children_of(frozen)
        freeze(frozen, running.ctx)
        with running.worker(SLEEPING, queues="cpu", threads=1, name="two", **lease):
            wait_for(running.ctx, job_id, Status.RUNNING, attempt=2)
            assert is_alive(child)
            frozen.send_signal(signal.SIGCONT)
            wait_until(lambda: not is_alive(child), what="the end of the fenced child")
            assert get_job(running.ctx, job_id).status is Status.RUNNING, "the other worker keeps the job"
        second = submit(running.ctx, seconds=0.1)  # its slot is free again
        wait_for(running.ctx, second, Status.FINISHED)


def set_revision(ctx: Context, revision: str) -> None:
    with ctx.db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_worker_takes_no_job_of_a_database_that_a_newer_version_upgraded_and_says_why(running: Site) -> None:
    ctx = running.ctx
    with running.worker(SLEEPING, queues="cpu"):
        first = submit(ctx, seconds=600)
        wait_for(ctx, first, Status.RUNNING)
        set_revision(ctx, "9999")
        second = submit(ctx, seconds=600)
        wait_until(lambda: list_workers(ctx)[0].gauges.takes_no_jobs, what="the reason in its heartbeat")
        (worker,) = list_workers(ctx)
        assert (worker.is_alive, worker.takes_jobs, has_worker(ctx, "cpu")) == (True, False, False)
        assert "revision 9999" in worker.gauges.takes_no_jobs
        request_stop(ctx, first, "cancel")
        wait_for(ctx, first, Status.CANCELLED)  # what it had begun is still its own
        beats = {list_workers(ctx)[0].heartbeat_at}
        wait_until(lambda: beats.add(list_workers(ctx)[0].heartbeat_at) or len(beats) > 6, what="six more heartbeats")
        assert get_job(ctx, second).status is Status.QUEUED
        set_revision(ctx, newest_revision())
        wait_for(ctx, second, Status.RUNNING)  # the upgrade was taken back
        assert list_workers(ctx)[0].takes_jobs
    log = (running.home / "one.log").read_text()
    assert log.count("takes no more jobs") == 1


def test_a_job_is_cancelled_on_request_and_killed_if_it_does_not_respond(running: Site) -> None:
    with running.worker(SLEEPING, queues="cpu", threads=2, ROUNDHOUSE_CANCEL_GRACE_S="1") as worker:
        jobs = [submit(running.ctx, seconds=600), submit(running.ctx, seconds=600, stubborn=True)]
        children = children_of(worker, count=2)
        for job_id in jobs:
            request_stop(running.ctx, job_id)
        for job_id in jobs:
            wait_for(running.ctx, job_id, Status.CANCELLED)
        wait_until(lambda: not any(is_alive(child) for child in children), what="the end of both")


def test_a_worker_imports_no_numeric_library_before_a_job(home: Path) -> None:
    code = (
        "import sys, jobs.celery_app, celery.apps.worker; print(' '.join({name.partition('.')[0] for name in"
        " sys.modules}))"
    )
    environment = {"ROUNDHOUSE_HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=PROJECT
    )
    imported = set(result.stdout.split())
    assert "celery" in imported
    assert imported & (HEAVY | {"numpy", "tokenizers", "fsspec", "aiohttp", "starlette", "alembic"}) == set()
