"""Runs over machines that share a database, a broker and a store, and no folder: placed on all or none, and ended
everywhere when one is lost.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.domain.jobs.states import TERMINAL, Status
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL
from backend.services.jobs.gangs import describe_gang, list_members
from backend.services.jobs.jobs import JobView, get_job, read_log
from backend.services.training.runs import launch_run, resume_run, stop_run
from backend.services.training.views import get_run
from tests.support.curves import read_curve
from tests.support.installation import is_alive, wait_until
from tests.support.run_world import tiny_run
from tests.support.workers.team import Team, team

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TWO: dict[str, Any] = {"grad_accum_steps": 2, "devices": {"count": 2, "nodes": 2}}
ONE: dict[str, Any] = {"grad_accum_steps": 4}


@pytest.fixture
def lab(home: Path, tmp_path: Path) -> Iterator[Team]:
    """A team with a dataset and a tokenizer."""
    with team(tmp_path / "team", pages=home, database_url=f"sqlite:///{home / 'models.db'}") as started:
        yield started


def launch(lab: Team, name: str, **values: Any) -> str:
    steps = values.pop("max_steps", 24)
    config = tiny_run(name, max_steps=steps, eval_every=8, **{"checkpoint_every": 8, **values})
    return launch_run(lab.ctx, config, person=LOCAL).id


def job_of(lab: Team, run_id: str) -> JobView:
    return get_job(lab.ctx, str(get_run(lab.ctx, run_id).job_id))


def curve(lab: Team, run_id: str, name: str = "train_loss") -> dict[int, float]:
    points = read_curve(lab.ctx, run_id, name)
    return dict(zip(points.steps, points.values, strict=True))


def end_of(lab: Team, run_id: str) -> JobView:
    wait_until(lambda: job_of(lab, run_id).status in TERMINAL, what="the end of the run")
    return job_of(lab, run_id)


def finish(lab: Team, run_id: str) -> None:
    job = end_of(lab, run_id)
    assert job.status is Status.FINISHED, (job.error, read_log(lab.ctx, job.id))


def same_curves(lab: Team, first: str, second: str) -> None:
    for name in ("train_loss", "grad_norm", "val_loss"):
        expected = curve(lab, first, name)
        assert expected
        assert curve(lab, second, name) == pytest.approx(expected, abs=1e-4), name


def test_a_run_over_two_machines_without_a_shared_folder_equals_one_process(lab: Team) -> None:
    with ExitStack() as machines:
        machines.enter_context(lab.machine("a"))
        alone = launch(lab, "alone", **ONE)
        finish(lab, alone)
        run = launch(lab, "both", **TWO)
        job_id = job_of(lab, run).id
        assert "Needs 2 machines at once: only a is there. Start 1 training worker more." in describe_gang(
            lab.ctx, job_id
        )
        small = launch(lab, "small", max_steps=8)
        finish(lab, small)  # a gang that can't be placed holds nobody up
        machines.enter_context(lab.machine("b"))
        wait_until(lambda: len(list_members(lab.ctx, job_id)) == 2, what="both machines")
        finish(lab, run)
    assert job_of(lab, run).attempt == 1
    same_curves(lab, alone, run)
    assert "Training on 2 machines" in "".join(read_log(lab.ctx, job_id))


def processes_of(lab: Team, name: str) -> list[psutil.Process]:
    """Return the processes of jobs on a machine."""
    mine = []
    for process in psutil.process_iter():
        try:
            modules = {"jobs.run", "jobs.training.rank"} & set(process.cmdline())
            if modules and process.environ().get("ROUNDHOUSE_HOME") == str(lab.folder / name):
                mine.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return mine


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("number", [0, 1])
def test_a_machine_that_is_lost_ends_the_attempt_everywhere_and_the_run_goes_on_with_the_other(
    lab: Team, number: int, how: signal.Signals
) -> None:
    long: dict[str, Any] = {"max_steps": 160, "checkpoint_every": 8, "learning_rate": 1e-4}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(lab.machine(name)) for name in "ab"}
        run = launch(lab, "both", **TWO, **long)
        job_id = job_of(lab, run).id
        wait_until(lambda: max(curve(lab, run), default=0) >= 20, what="step 20")
        hosts = [member.host for member in list_members(lab.ctx, job_id)]
        lost, other = hosts[number], hosts[1 - number]
        of_first_attempt = [*processes_of(lab, lost), *processes_of(lab, other)]
        assert len(of_first_attempt) == 4
        lost_at = time.monotonic()
        workers[lost].send_signal(how)
        wait_until(lambda: not any(map(is_alive, of_first_attempt)), timeout_s=30, what="the end of the attempt")
        ended_s = time.monotonic() - lost_at
        before = max(curve(lab, run))
        wait_until(lambda: job_of(lab, run).attempt == 2 and curve(lab, run), timeout_s=60, what="the second attempt")
        wait_until(lambda: max(curve(lab, run)) > before, timeout_s=60 - (time.monotonic() - lost_at), what="steps")
        print(f"ended after {ended_s:.1f} s, steps again after {time.monotonic() - lost_at:.1f} s")
        workers[lost].send_signal(signal.SIGKILL)
        finish(lab, run)
        alone = launch(lab, "alone", **ONE, **long)
        finish(lab, alone)
    job = job_of(lab, run)
    assert job.attempt == 2
    assert list(curve(lab, run)) == list(range(1, 161)), "no gap and no double step"
    same_curves(lab, alone, run)


def test_a_run_over_two_machines_stops_and_saves_and_resumes(lab: Team) -> None:
    with ExitStack() as machines:
        for name in "ab":
            machines.enter_context(lab.machine(name))
        run = launch(lab, "both", **TWO, max_steps=100_000, checkpoint_every=50_000)
        wait_until(lambda: max(curve(lab, run), default=0) >= 4, what="step 4")
        stop_run(lab.ctx, run, how="stop_and_save", person=LOCAL)
        assert end_of(lab, run).status is Status.CANCELLED
        (checkpoint,) = list_checkpoints(lab.ctx)
        wait_until(lambda: not processes_of(lab, "a") + processes_of(lab, "b"), timeout_s=30, what="no process")
        resume_run(lab.ctx, run, person=LOCAL)
        wait_until(lambda: max(curve(lab, run)) > (checkpoint.step or 0) + 2, what="more steps")
        stop_run(lab.ctx, run, how="cancel", person=LOCAL)
        assert end_of(lab, run).status is Status.CANCELLED
        wait_until(lambda: not processes_of(lab, "a") + processes_of(lab, "b"), timeout_s=30, what="no process")


@pytest.mark.parametrize(
    ("of_a", "of_b", "cause"),
    [
        ({}, {"ROUNDHOUSE_JOB_MEMORY_MB": "256"}, "^b: |memory|SystemError"),
        (
            {"ROUNDHOUSE_REPLICA_HOST": "192.0.2.1"},
            {"ROUNDHOUSE_REPLICA_HOST": "192.0.2.1"},
            "can't listen on 192.0.2.1",
        ),
    ],
)
def test_what_is_wrong_on_one_machine_fails_the_run_with_its_cause(
    lab: Team, of_a: dict[str, str], of_b: dict[str, str], cause: str
) -> None:
    with lab.machine("a", **of_a), lab.machine("b", **of_b):
        job = end_of(lab, launch(lab, "both", **TWO))
        assert job.status is Status.FAILED
        assert re.search(cause, job.error.cause)
        assert job.attempt == 1
        wait_until(lambda: not processes_of(lab, "a") + processes_of(lab, "b"), timeout_s=30, what="no process")
