"""Killed workers, an emptied broker and a locked database lose no work and leave no gap in the curve."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest
from sqlalchemy import text

from backend.domain.jobs.states import Status
from backend.services.context import LOCAL
from backend.services.jobs.jobs import get_job
from backend.services.training.runs import launch_run, stop_run
from backend.services.training.views import get_run
from tests.support.curves import read_curve
from tests.support.installation import Installation, is_alive, wait_until
from tests.support.run_world import tiny_run

pytestmark = pytest.mark.timeout(900)  # a whole installation starts slowly on a busy machine


def curve(installation: Installation, run_id: str) -> dict[int, float]:
    points = read_curve(installation.ctx, run_id, "train_loss")
    return dict(zip(points.steps, points.values, strict=True))


def wait_for_step(installation: Installation, run_id: str, step: int) -> None:
    wait_until(lambda: max(curve(installation, run_id), default=0) >= step, timeout_s=300, what=f"step {step}")


def wait_for_end(installation: Installation, run_id: str, *, timeout_s: float = 300) -> Status:
    def ended() -> Status | None:
        status = get_run(installation.ctx, run_id).status
        return status if status in (Status.FINISHED, Status.FAILED, Status.CANCELLED) else None

    status: Status = wait_until(ended, timeout_s=timeout_s, what="the end of the run")
    return status


def launch(installation: Installation, name: str, **values: object) -> str:
    return launch_run(installation.ctx, tiny_run(name, **values), person=LOCAL).id


def test_a_worker_killed_in_mid_training_and_then_a_fork_server_leave_the_curve_of_an_undisturbed_run(
    installation: Installation,
) -> None:
    quiet = launch(installation, "quiet")
    assert wait_for_end(installation, quiet) is Status.FINISHED
    killed = launch(installation, "killed")
    wait_for_step(installation, killed, 130)
    children = installation.processes("jobs.run")
    assert children, "the training child runs"
    for worker in installation.processes("jobs.celery_app"):
        worker.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(child) for child in children), what="the orphan's death")
    job_id = get_run(installation.ctx, killed).job_id or ""
    wait_until(lambda: get_job(installation.ctx, job_id).attempt == 2, timeout_s=300, what="the second attempt")
    wait_for_step(installation, killed, 200)
    for server in installation.processes("jobs.fork_server"):
        server.kill()
    assert wait_for_end(installation, killed) is Status.FINISHED
    assert get_job(installation.ctx, job_id).attempt == 2, "a run outlives the server that forked it"
    first, second = curve(installation, quiet), curve(installation, killed)
    assert list(second) == list(range(1, 401)), "no gap and no double step"
    assert second == first, "fp32 on the CPU is exact"


def test_stop_and_save_keeps_a_checkpoint_and_ends_as_cancelled(installation: Installation) -> None:
    run = launch(installation, "stopped", max_steps=100_000, checkpoint_every=50_000)
    wait_for_step(installation, run, 60)
    stop_run(installation.ctx, run, how="stop_and_save", person=LOCAL)
    assert wait_for_end(installation, run) is Status.CANCELLED
    last = max(curve(installation, run))
    folder = installation.ctx.artifacts.folder("runs", run, "checkpoints")
    assert [path.name for path in folder.iterdir()] == [f"step-{last:06d}"]


def test_a_broker_that_is_killed_and_comes_back_empty_loses_no_queued_run(installation: Installation) -> None:
    first = launch(installation, "before the broker dies", max_steps=150)
    second = launch(installation, "waits behind it", max_steps=20)
    for process in installation.processes("valkey-server"):
        process.send_signal(signal.SIGKILL)
    shutil.rmtree(installation.home / "broker", ignore_errors=True)
    (installation.home / "broker").mkdir(exist_ok=True)
    third = launch(installation, "launched while there is no broker", max_steps=20)
    for run in (first, second, third):
        assert wait_for_end(installation, run) is Status.FINISHED


def test_a_write_waits_for_a_locked_database(installation: Installation) -> None:
    run = launch(installation, "locked out", max_steps=300)
    wait_for_step(installation, run, 20)
    with installation.ctx.db.write() as other:  # SQLite has one writer at a time
        if not installation.ctx.db.is_sqlite:
            other.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
        time.sleep(4.0)  # shorter than the lease: nothing may be taken for lost
    assert wait_for_end(installation, run) is Status.FINISHED
    assert list(curve(installation, run)) == list(range(1, 301))
    assert get_job(installation.ctx, get_run(installation.ctx, run).job_id or "").attempt == 1


def test_a_killed_child_fails_the_run_with_a_cause(installation: Installation) -> None:
    run = launch(installation, "killed child", max_steps=100_000)
    wait_for_step(installation, run, 10)
    for child in installation.processes("jobs.run"):
        if "--child" in child.cmdline():
            os.kill(child.pid, signal.SIGKILL)
    assert wait_for_end(installation, run) is Status.FAILED
    error = get_job(installation.ctx, get_run(installation.ctx, run).job_id or "").error
    assert "killed" in error.cause
    assert "smaller" in error.remedy
