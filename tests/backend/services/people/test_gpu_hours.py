"""A person's GPU-hours of a week are counted and kept, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.db.tables import DeviceUse, Job, Run
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.gpu_hours import PersonLimits, week_start
from backend.domain.jobs.states import JobKind, Status
from backend.domain.training.config import RunConfig
from backend.errors import Conflict, NotAllowed
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.workers import beat
from backend.services.people.accounts import add_user, change_limits, list_accounts
from backend.services.people.gpu_hours import gpu_hours_of, require_gpu_hours, used_gpu_hours
from backend.services.training import runs
from backend.services.training.runs import launch_run, resume_run, retry_run
from backend.services.training.views import RunView
from tests.support.clock import START, Clock
from tests.support.jobs import add_stored_job
from tests.support.queries import count_selects
from tests.support.run_world import make_config, measure
from tests.support.scenario import Scenario

MONDAY = START - timedelta(days=1)
PASSWORD = "correct horse battery"


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(timedelta(days=1).total_seconds())
    return clock


@pytest.fixture
def ctx(any_ctx: Context, clock: Clock) -> Context:
    return replace(any_ctx, now=clock)


@pytest.fixture
def maya(ctx: Context) -> Person:
    """A person with ten GPU-hours a week."""
    maya = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    change_limits(ctx, str(maya.id), PersonLimits(gpu_hours_per_week=10), person=LOCAL)
    return maya


def add_use(
    ctx: Context, person: Person, *, start_h: float, end_h: float | None, gpus: int = 1, kind: JobKind = JobKind.TRAIN
) -> None:
    """Record that a job of a person held GPUs for some hours from Monday on."""

    def moment(hours: float) -> datetime:
        return MONDAY + timedelta(hours=hours)

    with ctx.db.write() as session:
        job = add_stored_job(session, ctx, kind, payload={"n": 1})
        job.created_by, job.status = person.id, Status.FINISHED if end_h is not None else Status.RUNNING
        use = DeviceUse(job_id=job.id, attempt=1, kind="gpu", num_devices=gpus, started_at=moment(start_h))
        use.ended_at = moment(end_h) if end_h is not None else None
        session.add(use)


def set_job(
    ctx: Context, run: RunView, status: Status, *, device: str | None = None, last_step: int | None = None
) -> None:
    """Put a run's job into a state, on a GPU if a device is given."""
    with ctx.db.write() as session:
        row = session.get_one(Run, run.id)
        job = session.get_one(Job, row.job_id)
        job.status, job.device = status, device
        row.last_step = row.last_step if last_step is None else last_step


def used(ctx: Context, person: Person) -> float:
    hours = gpu_hours_of(ctx, person)
    assert hours is not None
    return hours.used


def test_the_hours_of_a_week_are_those_of_ones_jobs_times_their_gpus(ctx: Context, maya: Person, clock: Clock) -> None:
    add_use(ctx, maya, start_h=-5, end_h=-1, gpus=8)  # of last week
    add_use(ctx, maya, start_h=-1, end_h=0.5, gpus=2)
    add_use(ctx, maya, start_h=10, end_h=11.5, gpus=2)
    add_use(ctx, maya, start_h=47, end_h=None)
    add_use(ctx, maya, start_h=0, end_h=40, gpus=8, kind=JobKind.REPLICA)
    add_use(ctx, add_user(ctx, "noor", PASSWORD, person=LOCAL), start_h=0, end_h=40, gpus=8)
    assert used(ctx, maya) == pytest.approx(0.5 * 2 + 1.5 * 2 + 1)
    clock.advance(3600)
    assert used(ctx, maya) == pytest.approx(6)
    assert gpu_hours_of(ctx, LOCAL) is None
    assert week_start(MONDAY - timedelta(seconds=1)) == MONDAY - timedelta(days=7)
    assert week_start(MONDAY) == MONDAY


@pytest.fixture
def launch(ctx: Context, scenario: Scenario, maya: Person) -> Callable[..., RunView]:
    """Launches runs on a GPU of which each 1,000 steps are known to take an hour."""
    scenario.parts()

    def make(**values: object) -> RunConfig:
        return make_config(device="gpu", **values)

    measure(ctx, make(), step_s=3.6)

    def launch(*, hours: int, **values: object) -> RunView:
        return launch_run(ctx, make(max_steps=1000 * hours, **values), person=maya)

    return launch


def test_a_run_that_would_exceed_the_week_is_refused_with_what_is_used_and_the_cure(
    ctx: Context, maya: Person, launch: Callable[..., RunView], clock: Clock
) -> None:
    add_use(ctx, maya, start_h=0, end_h=3)
    launch(hours=3)
    with pytest.raises(Conflict) as raised:
        launch(hours=5)
    assert str(raised.value) == (
        "This run needs about 5.0 GPU-hours, and 3.0 of 10 GPU-hours of this week are used, and about 3.0 expected of"
        " runs that wait or train. Wait until Monday 07 January, 00:00 UTC, choose fewer steps or devices, or ask an"
        " administrator for more."
    )
    launch(hours=4)
    with pytest.raises(Conflict, match="10 GPU-hours"):
        launch(hours=1)
    launch_run(ctx, make_config(device="cpu"), person=maya)
    clock.advance(timedelta(days=5).total_seconds())
    with ctx.db.write() as session:
        for job in session.query(Job):
            job.status = Status.CANCELLED
    launch(hours=10)


@pytest.mark.parametrize("continues", [False, True])
def test_of_two_runs_that_are_queued_at_the_same_moment_only_those_fit_that_fit_together(
    ctx: Context, maya: Person, launch: Callable[..., RunView], monkeypatch: pytest.MonkeyPatch, continues: bool
) -> None:
    """Both have been checked when the first is queued: a launch and another, or one that is tried again."""
    first = launch(hours=6, name="first") if continues else None
    if first is not None:
        set_job(ctx, first, Status.FAILED)
    both_checked = threading.Barrier(2, timeout=60)

    def check_and_meet(*args: Any, **kwargs: Any) -> Any:
        needed = require_gpu_hours(*args, **kwargs)
        both_checked.wait()
        return needed

    monkeypatch.setattr(runs, "require_gpu_hours", check_and_meet)

    def queue(number: int) -> str:
        try:
            if number == 0 and first is not None:
                retry_run(ctx, first.id, person=maya)
            else:
                launch(hours=6, name=f"run {number}")
        except Conflict as error:
            return error.message
        return "queued"

    with ThreadPoolExecutor(2) as pool:
        ends = sorted(pool.map(queue, range(2)))
    assert ends[1] == "queued"
    assert "about 6.0 expected of runs that wait or train" in ends[0]
    with ctx.db.read() as session:
        assert session.scalar(select(func.count()).where(Job.status == Status.QUEUED, Job.kind == JobKind.TRAIN)) == 1


def test_a_run_is_not_continued_when_nothing_is_left(
    ctx: Context, maya: Person, launch: Callable[..., RunView]
) -> None:
    run = launch(hours=1)
    set_job(ctx, run, Status.FAILED)
    add_use(ctx, maya, start_h=0, end_h=10)
    with pytest.raises(Conflict, match=r"10\.0 of 10 GPU-hours"):
        retry_run(ctx, run.id, person=maya)
    change_limits(ctx, str(maya.id), PersonLimits(), person=LOCAL)
    assert retry_run(ctx, run.id, person=maya).status is Status.QUEUED


def test_the_installations_limit_holds_where_an_account_has_none(ctx: Context, maya: Person) -> None:
    limited = replace(ctx, policy=replace(ctx.policy, gpu_hours_per_week=4.0))
    noor = add_user(limited, "noor", PASSWORD, person=LOCAL)
    assert [one.limit for one in (gpu_hours_of(limited, noor), gpu_hours_of(limited, maya)) if one] == [4, 10]
    assert gpu_hours_of(ctx, noor) is None
    with pytest.raises(NotAllowed):
        change_limits(ctx, str(noor.id), PersonLimits(gpu_hours_per_week=1000), person=noor)
    assert {one.name: one.limits.gpu_hours_per_week for one in list_accounts(ctx)} == {"maya": 10, "noor": None}


@pytest.mark.parametrize("is_new_week", [False, True])
def test_only_the_steps_that_are_left_are_expected(
    ctx: Context, maya: Person, launch: Callable[..., RunView], clock: Clock, is_new_week: bool
) -> None:
    run = launch(hours=8)
    set_job(ctx, run, Status.RUNNING, device="0", last_step=7000)
    if is_new_week:
        clock.advance(timedelta(days=7).total_seconds())
    else:  # a run that is retried has another job
        set_job(ctx, run, Status.FAILED)
        Scenario(ctx).checkpoint(run=run, step=7000)
        retry_run(ctx, run.id, person=maya)
    hours = gpu_hours_of(ctx, maya)
    assert hours is not None
    assert (hours.used, hours.expected) == (0, pytest.approx(1))
    launch(hours=9)


def test_a_run_that_takes_any_device_counts_only_on_a_gpu(ctx: Context, scenario: Scenario, maya: Person) -> None:
    scenario.parts()
    gauges = MachineGauges(cpu_name="a CPU", memory_total_bytes=8 * 2**30)
    beat(ctx, name="lab/train", host="lab", pid=1, slots={"train": 1}, devices=[], gauges=gauges)
    config = make_config(device="auto", max_steps=3000)
    measure(ctx, config, step_s=3.6)
    run = launch_run(ctx, config, person=maya)

    def expected() -> float:
        hours = gpu_hours_of(ctx, maya)
        assert hours is not None
        return hours.expected

    assert expected() == 0
    set_job(ctx, run, Status.RUNNING, device=None)
    assert expected() == 0
    set_job(ctx, run, Status.RUNNING, device="0")
    assert expected() == pytest.approx(3)


def test_steps_that_are_added_to_a_run_are_required_like_those_of_a_new_one(
    ctx: Context, maya: Person, launch: Callable[..., RunView]
) -> None:
    run = launch(hours=1)
    set_job(ctx, run, Status.FINISHED, last_step=1000)
    Scenario(ctx).checkpoint(run=run, step=1000)
    with pytest.raises(Conflict, match=r"needs about 99\.0 GPU-hours, and 0\.0 of 10 GPU-hours"):
        resume_run(ctx, run.id, person=maya, max_steps=100_000)
    assert resume_run(ctx, run.id, person=maya, max_steps=9000).max_steps == 9000


def test_nothing_is_predicted_for_a_list_of_accounts_nor_where_no_hours_are_left(
    ctx: Context, maya: Person, launch: Callable[..., RunView]
) -> None:
    noor = add_user(ctx, "noor", PASSWORD, person=LOCAL)
    launch(hours=1)
    add_use(ctx, maya, start_h=0, end_h=10)
    with count_selects(ctx.db.engine) as selects:
        assert {user_id: hours.used for user_id, hours in used_gpu_hours(ctx, list_accounts(ctx)).items()} == {
            maya.id: 10
        }
        with pytest.raises(Conflict, match=r"10\.0 of 10 GPU-hours of this week are used\. Wait"):
            launch(hours=1)
    assert (selects["measurements"], selects["device_uses"]) == (0, 2)
    with count_selects(ctx.db.engine) as selects:
        launch_run(ctx, make_config(device="gpu"), person=noor)
    assert (selects["measurements"], selects["device_uses"]) == (0, 0)


def test_who_cancels_launches_another_and_resumes_is_still_held_to_the_week(
    ctx: Context, maya: Person, launch: Callable[..., RunView]
) -> None:
    """A run that was continued to the steps it had was weighed as nothing, and two took twice the limit."""
    first = launch(hours=9)
    Scenario(ctx).checkpoint(run=first, step=1000)
    set_job(ctx, first, Status.CANCELLED)
    second = launch(hours=9, name="another")
    for again in (resume_run, retry_run):
        with pytest.raises(Conflict, match=r"needs about 8\.0 GPU-hours, and .* about 9\.0 expected"):
            again(ctx, first.id, person=maya)
    set_job(ctx, second, Status.CANCELLED)
    assert resume_run(ctx, first.id, person=maya).status is Status.QUEUED


def test_runs_that_take_the_same_time_are_predicted_once(
    ctx: Context, maya: Person, launch: Callable[..., RunView]
) -> None:
    for number in range(4):
        launch(hours=number + 1, name=f"try {number}", seed=number, learning_rate=1e-3 * (number + 1))
    measure(ctx, make_config(device="gpu", micro_batch=15), step_s=3.6)
    with count_selects(ctx.db.engine) as selects:
        hours = gpu_hours_of(ctx, maya)
    assert hours is not None
    assert hours.expected == pytest.approx(10)
    assert selects["measurements"] == 1 + 1


def test_of_many_different_runs_a_few_are_predicted_and_the_others_take_their_mean(ctx: Context, maya: Person) -> None:
    Scenario(ctx).parts()
    for number in range(1, 15):
        config = make_config(device="gpu", micro_batch=number, max_steps=500)
        measure(ctx, config, step_s=3.6)
        launch_run(ctx, config, person=maya)
    measure(ctx, make_config(device="gpu", micro_batch=15), step_s=3.6)  # it may change all predictions
    for num_predicted in (12, 2, 0):
        with count_selects(ctx.db.engine) as selects:
            hours = gpu_hours_of(ctx, maya)
        assert hours is not None
        assert hours.expected == pytest.approx(7)
        assert selects["measurements"] == 1 + num_predicted
