"""Claims, leases, fences and slots, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from backend.db.tables import DeviceUse, Job, Slot
from backend.domain.jobs.events import ProgressEvent
from backend.domain.jobs.progress import expected_wait_s
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import JobKind, Status
from backend.errors import Conflict, NotAllowed
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs import queue_position, recovery
from backend.services.jobs.claims import (
    FIRST_CANDIDATES,
    Claim,
    Fenced,
    claim_job,
    claim_next,
    end_job,
    give_back,
    renew,
    requeue,
)
from backend.services.jobs.jobs import get_job, request_stop, stop_job
from backend.services.jobs.queue_position import ahead_of_new, queue_ahead, queue_positions
from backend.services.jobs.recovery import recover_jobs
from backend.services.training.live import describe_state
from tests.support.clock import START, Clock
from tests.support.jobs import add_stored_job


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(any_ctx: Context, clock: Clock) -> Context:
    return replace(any_ctx, now=clock)


def submit(
    ctx: Context,
    title: str = "job",
    *,
    kind: JobKind = JobKind.TRAIN,
    payload: dict[str, Any] | None = None,
    **values: Any,
) -> str:
    with ctx.db.write() as session:
        return add_stored_job(session, ctx, kind, title=title, payload=payload or {"n": 1}, **values).id


def training_payload(*, devices: int) -> dict[str, Any]:
    config = {"dataset": "d", "architecture": "a", "tokenizer": "t", "devices": {"count": devices}}
    return {"run_id": "r", "run_folder": "runs/r", "dataset_kind": "text", "config": config}


def claim(
    ctx: Context, *, owner: str = "w#1", queue: str = "train", devices: tuple[str, ...] = ()
) -> Claim[Any] | None:
    return claim_next(ctx, queue, owner=owner, host="lab", devices=devices)


def taken(ctx: Context, **values: Any) -> Claim[Any]:
    result = claim(ctx, **values)
    assert result is not None
    return result


def test_two_hundred_jobs_are_claimed_once_each_by_eight_threads(ctx: Context) -> None:
    jobs = {submit(ctx, f"job {n}") for n in range(60)}
    claimed: list[str] = []
    lock = threading.Lock()

    def worker(number: int) -> None:
        misses = 0
        while misses < 3:
            got = claim(ctx, owner=f"w{number}")
            if got is None:
                misses += 1
                continue
            with lock:
                claimed.append(got.job_id)

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(jobs)


@pytest.mark.parametrize("num_hosts", [16, 1])
def test_workers_with_gpus_that_wake_together_get_a_job_each(ctx: Context, num_hosts: int) -> None:
    """On PostgreSQL one worker's look at the queue hid it from the others."""
    workers = 16
    for number in range(135):
        submit(ctx, f"job {number}", payload=training_payload(devices=1))
    devices = tuple(map(str, range(workers // num_hosts)))
    together = threading.Barrier(workers)

    def wake(number: int) -> Claim[Any] | None:
        together.wait()
        return claim_next(ctx, "train", owner=f"w{number}", host=f"host{number % num_hosts}", devices=devices)

    with ThreadPoolExecutor(workers) as threads:
        claims = [one for one in threads.map(wake, range(workers)) if one is not None]
    assert len({one.job_id for one in claims}) == workers
    assert len({(one.host, one.device) for one in claims}) == workers


def test_the_job_with_the_better_priority_goes_first_and_then_the_older(ctx: Context, clock: Clock) -> None:
    submit(ctx, "old")
    clock.advance(1)
    submit(ctx, "new")
    clock.advance(1)
    submit(ctx, "urgent", priority=0)
    order = [get_job(ctx, taken(ctx).job_id).title for _ in range(3)]
    assert order == ["urgent", "old", "new"]


def test_a_queued_job_lists_the_jobs_ahead_of_it(ctx: Context, clock: Clock) -> None:
    submit(ctx, "running")
    taken(ctx)
    clock.advance(1)
    submit(ctx, "first")
    clock.advance(1)
    last = submit(ctx, "last")
    submit(ctx, "elsewhere", kind=JobKind.EVALUATE)
    ahead = queue_ahead(ctx, last)
    assert ([job.title for job in ahead.first], ahead.count) == (["running", "first"], 2)
    assert ahead.progress == [None, None]


def test_a_wait_behind_a_run_is_unknown_until_its_steps_have_a_rate(ctx: Context, clock: Clock) -> None:
    """A run that had read its rows was expected to end in 0 s, with all its steps ahead."""
    submit(ctx, "running")
    claimed = taken(ctx)
    clock.advance(1)
    last = submit(ctx, "last")

    def wait_after(event: ProgressEvent) -> float | None:
        with ctx.db.write() as session:
            renew(session, ctx, claimed, progress=event)
        return expected_wait_s(queue_ahead(ctx, last).progress, slots=1)

    assert wait_after(ProgressEvent(done=116, total=116, unit="row", rate=500.0)) is None
    assert wait_after(ProgressEvent(done=0, total=80)) is None
    assert wait_after(ProgressEvent(done=7, total=80, rate=0.5)) == 146.0


def test_a_long_queue_is_counted_and_its_first_jobs_are_listed(
    ctx: Context, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_position, "MAX_LISTED", 2)
    submit(ctx, "running")
    taken(ctx)
    for title in ("a", "b", "c"):
        clock.advance(1)
        submit(ctx, title)
    clock.advance(1)
    last = submit(ctx, "last")
    ahead = queue_ahead(ctx, last)
    assert ([job.title for job in ahead.first], ahead.count, len(ahead.progress)) == (["running", "a", "b"], 4, 4)
    assert ahead_of_new(ctx, "train", priority=5).count == 5
    with ctx.db.read() as session:
        queued = session.scalars(select(Job).where(Job.status == Status.QUEUED).order_by(Job.created_at)).all()
        assert queue_positions(session, queued) == {job.id: number for number, job in enumerate(queued, start=1)}


def test_places_in_the_queue_are_those_of_a_sorted_list(any_ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, draw = any_ctx, random.Random(7)
    with ctx.db.write() as session:
        for number in range(60):
            job = add_stored_job(
                session,
                ctx,
                draw.choice((JobKind.TRAIN, JobKind.EXPORT)),
                title=str(number),
                priority=draw.choice((1, 5, 9)),
                placement=draw.choice((None, None, "slurm:gpu")),
            )
            job.status = draw.choice((Status.QUEUED,) * 4 + (Status.RUNNING, Status.FINISHED))
            job.created_at = START + timedelta(seconds=draw.randrange(6))  # many at the same moment
    with ctx.db.read() as session:
        jobs = [job for job in session.scalars(select(Job)) if job.placement is None]
        waiting = sorted((j for j in jobs if j.status == Status.QUEUED), key=lambda j: (j.priority, j.created_at, j.id))
        running = Counter(job.queue for job in jobs if job.status == Status.RUNNING)
        places = {
            job.id: running[job.queue] + sum(other.queue == job.queue for other in waiting[:place])
            for place, job in enumerate(waiting)
        }
        assert len(places) > 15
        assert queue_positions(session, waiting) == places
        monkeypatch.setattr(queue_position, "MAX_READ", 3)  # they stand behind more than are read
        assert queue_positions(session, waiting) == places
        some = draw.sample(waiting, 7)
        assert queue_positions(session, some) == {job.id: places[job.id] for job in some}
        assert queue_positions(session, []) == {}


def test_a_job_waits_for_the_job_it_depends_on(ctx: Context) -> None:
    first = submit(ctx, "first", kind=JobKind.IMPORT_DATASET)
    submit(ctx, "second", depends_on=first)
    assert claim(ctx) is None
    held = taken(ctx, queue="cpu")
    with ctx.db.write() as session:
        end_job(session, ctx, held, Status.FINISHED)
    assert get_job(ctx, taken(ctx).job_id).title == "second"


def test_a_job_is_cancelled_when_the_job_it_waits_for_fails(ctx: Context) -> None:
    first = submit(ctx, "first", kind=JobKind.IMPORT_DATASET)
    second = submit(ctx, "second", depends_on=first)
    held = taken(ctx, queue="cpu")
    with ctx.db.write() as session:
        end_job(session, ctx, held, Status.FAILED, error=JobFailure(cause="bad rows"))
    recover_jobs(ctx)
    job = get_job(ctx, second)
    assert job.status is Status.CANCELLED
    assert "depends on" in job.error.cause


def test_a_lapsed_lease_puts_the_job_back_and_fences_the_old_attempt(ctx: Context, clock: Clock) -> None:
    job = submit(ctx)
    old = taken(ctx)
    clock.advance(ctx.policy.lease_s + 1)
    assert recover_jobs(ctx).requeued == [job]
    new = taken(ctx, owner="w#2")
    assert new.attempt == 2
    with pytest.raises(Fenced), ctx.db.write() as session:
        renew(session, ctx, old, progress=ProgressEvent(done=99, total=100))
    with pytest.raises(Fenced), ctx.db.write() as session:
        end_job(session, ctx, old, Status.FINISHED, result=TrainResult(final_step=7))
    assert get_job(ctx, job).result == {}
    assert get_job(ctx, job).status is Status.RUNNING


def test_recovery_ignores_a_renewed_lease(ctx: Context, clock: Clock) -> None:
    submit(ctx)
    held = taken(ctx)
    for _ in range(5):
        clock.advance(ctx.policy.lease_s - 1)
        with ctx.db.write() as session:
            renew(session, ctx, held)
        assert recover_jobs(ctx).requeued == []


def test_a_job_whose_worker_is_lost_too_often_fails_with_a_cause(ctx: Context, clock: Clock) -> None:
    job = submit(ctx)
    for _ in range(ctx.policy.max_attempts):
        taken(ctx)
        clock.advance(ctx.policy.lease_s + 1)
        recover_jobs(ctx)
    assert get_job(ctx, job).status is Status.FAILED
    assert "lost 3 times" in get_job(ctx, job).error.cause


def test_a_replica_is_put_back_without_end_and_with_growing_pauses(ctx: Context, clock: Clock) -> None:
    job = submit(ctx, kind=JobKind.REPLICA, restarts_forever=True)
    pauses = []
    for _ in range(ctx.policy.max_attempts + 3):
        held = taken(ctx, queue="serve")
        with ctx.db.write() as session:
            requeue(session, ctx, held, error=JobFailure(cause="crash"), lasted_s=1.0)
        waited = 0
        while claim(ctx, queue="serve", owner="probe") is None:
            clock.advance(1)
            waited += 1
        pauses.append(waited)
        with ctx.db.write() as session:
            row = session.get_one(Job, job)
            row.status, row.owner = Status.QUEUED, None
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]


def test_four_jobs_and_two_gpus_never_put_two_on_one(ctx: Context) -> None:
    for n in range(4):
        submit(ctx, f"job {n}")
    held = [claim(ctx, owner=f"w{n}", devices=("0", "1")) for n in range(4)]
    devices = [c.device for c in held if c is not None]
    assert sorted(d for d in devices if d) == ["0", "1"]
    assert held[2] is None
    assert held[3] is None
    first = held[0]
    assert first is not None
    with ctx.db.write() as session:
        end_job(session, ctx, first, Status.FINISHED)
    assert taken(ctx, owner="w5", devices=("0", "1")).device == first.device


def test_a_job_behind_many_that_no_machine_of_this_size_can_run_is_reached(ctx: Context) -> None:
    for n in range(FIRST_CANDIDATES + 1):
        submit(ctx, f"too large {n}", payload=training_payload(devices=8))
    fits = submit(ctx, "fits")
    assert taken(ctx, devices=("0", "1")).job_id == fits
    assert claim(ctx, devices=("0", "1")) is None


def test_a_cpu_job_needs_no_gpu_and_a_gpu_job_waits_for_one(ctx: Context) -> None:
    submit(ctx, "gpu only", device="gpu")
    submit(ctx, "cpu only", device="cpu")
    assert get_job(ctx, taken(ctx).job_id).title == "cpu only"
    assert claim(ctx) is None
    assert taken(ctx, devices=("0",)).device == "0"


def test_a_job_of_two_gpus_takes_two_and_is_not_overtaken_by_jobs_of_one(ctx: Context) -> None:
    two = training_payload(devices=2)
    first = submit(ctx, "one")
    held = taken(ctx, owner="w1", devices=("0", "1"))
    assert held.job_id == first
    submit(ctx, "too large", payload=training_payload(devices=3), priority=5)
    wide = submit(ctx, "two", payload=two, priority=6)
    submit(ctx, "another", priority=7)
    submit(ctx, "on the CPU", device="cpu", priority=8)
    assert get_job(ctx, taken(ctx, owner="w2", devices=("0", "1")).job_id).title == "on the CPU"
    assert claim(ctx, owner="w3", devices=("0", "1")) is None, "the free GPU is kept for the job that waits for two"
    with ctx.db.write() as session:
        end_job(session, ctx, held, Status.FINISHED)
    both = taken(ctx, owner="w4", devices=("0", "1"))
    assert (both.job_id, both.device) == (wide, "0,1")
    assert claim(ctx, owner="w5", devices=("0", "1")) is None
    with ctx.db.write() as session:
        renew(session, ctx, both)
        end_job(session, ctx, both, Status.FINISHED)
    assert get_job(ctx, taken(ctx, owner="w6", devices=("0", "1")).job_id).title == "another"


def test_a_slot_whose_holder_is_gone_is_free_after_its_lease(ctx: Context, clock: Clock) -> None:
    submit(ctx, "one")
    submit(ctx, "two")
    taken(ctx, devices=("0",))
    assert claim(ctx, devices=("0",)) is None
    clock.advance(ctx.policy.lease_s + 1)
    assert taken(ctx, devices=("0",)).device == "0"
    with ctx.db.read() as session:
        assert session.get_one(Slot, ("lab", "0")).lease_until > clock.now


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_gets_a_request(ctx: Context) -> None:
    waiting = submit(ctx, "waiting", priority=9)
    running = submit(ctx, "running", priority=0)
    taken(ctx)
    assert request_stop(ctx, waiting).status is Status.CANCELLED
    requested = request_stop(ctx, running, "stop_and_save")
    assert (requested.status, requested.stop_request) == (Status.CANCELLING, "stop_and_save")
    with pytest.raises(Conflict, match="already stopped"):
        request_stop(ctx, waiting)


@pytest.mark.parametrize("runs", [False, True], ids=["queued", "running"])
def test_a_stop_that_meets_its_worker_leaves_no_job_that_neither_runs_nor_has_ended(
    ctx: Context, clock: Clock, runs: bool
) -> None:
    job_id = submit(ctx)
    held = taken(ctx, devices=("0",)) if runs else None
    threads: list[threading.Thread] = []

    def work_meanwhile() -> None:
        if held is None:
            claim(ctx, devices=("0",))
            return
        with ctx.db.write() as session:
            end_job(session, ctx, held, Status.FINISHED)

    def begin_work(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE jobs") and not threads:
            threads.append(threading.Thread(target=work_meanwhile))
            threads[0].start()
            threads[0].join(1)  # it waits for a lock that the stop holds, or is through

    event.listen(ctx.db.engine, "before_cursor_execute", begin_work)
    try:
        request_stop(ctx, job_id)
    finally:
        event.remove(ctx.db.engine, "before_cursor_execute", begin_work)
        threads[0].join()
    clock.advance(3600)
    recover_jobs(ctx)
    assert get_job(ctx, job_id).status is (Status.FINISHED if runs else Status.CANCELLED)
    with ctx.db.read() as session:
        assert list(session.scalars(select(DeviceUse.id).where(DeviceUse.ended_at.is_(None)))) == []


def test_a_rater_can_not_stop_a_job(ctx: Context) -> None:
    job = submit(ctx)
    with pytest.raises(NotAllowed):
        stop_job(ctx, job, person=Person("x", "r", "rater"))
    assert stop_job(ctx, job, person=LOCAL).status is Status.CANCELLED


def test_a_job_being_cancelled_ends_cancelled_when_its_worker_is_lost(ctx: Context, clock: Clock) -> None:
    job = submit(ctx)
    taken(ctx)
    request_stop(ctx, job)
    clock.advance(ctx.policy.lease_s + 1)
    recover_jobs(ctx)
    assert get_job(ctx, job).status is Status.CANCELLED


def test_a_worker_that_shuts_down_gives_its_job_back_without_counting_a_loss(ctx: Context) -> None:
    job = submit(ctx)
    give_back(ctx, taken(ctx, devices=("0",)))
    assert get_job(ctx, job).status is Status.QUEUED
    again = taken(ctx, devices=("0",))
    assert (again.job_id, again.attempt) == (job, 2)
    with ctx.db.read() as session:
        assert session.get_one(Job, job).lost == 0


def test_a_replica_that_dies_just_as_it_is_stopped_is_not_started_again(ctx: Context) -> None:
    job = submit(ctx, kind=JobKind.REPLICA, restarts_forever=True)
    held = taken(ctx, queue="serve")
    request_stop(ctx, job)
    with ctx.db.write() as session:
        requeue(session, ctx, held, error=JobFailure(cause="crash"), lasted_s=1.0)
    assert get_job(ctx, job).status is Status.CANCELLED
    assert claim(ctx, queue="serve") is None


def test_the_same_idempotency_key_is_refused_by_the_database(ctx: Context) -> None:
    from sqlalchemy.exc import IntegrityError

    submit(ctx, idempotency_key="click-1")
    with pytest.raises(IntegrityError):
        submit(ctx, idempotency_key="click-1")


def test_a_broker_that_lost_its_messages_gets_one_for_each_job_but_no_more_than_workers_read(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand were counted and published while the jobs waited for the sweep's end."""
    monkeypatch.setattr(recovery, "MAX_WAKE_UPS", 5)
    queue = LostMessages()
    emptied = replace(ctx, queue=queue)  # type: ignore[arg-type]
    for number in range(7):
        submit(ctx, f"run {number}")
    submit(ctx, kind=JobKind.IMPORT_DATASET)
    assert recover_jobs(emptied).woken == {"train": 5, "cpu": 1}
    assert recover_jobs(emptied).woken == {}
    queue.messages["train"] -= 2
    assert recover_jobs(emptied).woken == {"train": 2}


class LostMessages:
    """A broker that counts."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()

    def waiting(self, queue: str) -> int:
        return self.messages[queue]

    def publish(self, queue: str) -> bool:
        self.messages[queue] += 1
        return True


def test_a_placed_job_waits_for_the_worker_that_was_started_for_it(ctx: Context, clock: Clock) -> None:
    """No other worker takes it, the command line does not run it, nobody waits behind it, and no wake-up is sent."""
    placed = submit(ctx, "on a cluster", placement="slurm:gpu", priority=1)
    clock.advance(1)
    here = submit(ctx, "here")
    assert queue_ahead(ctx, here).count == 0
    assert queue_ahead(ctx, placed).count == 0
    with ctx.db.read() as session:
        assert queue_positions(session, list(session.scalars(select(Job)))) == {here: 0}
        assert recovery._count_eligible(session, ctx, "train") == 1
    assert claim_job(ctx, placed, owner="cli", host="lab") is None
    assert taken(ctx).job_id == here
    for devices in ((), ("0", "1")):
        assert claim(ctx, devices=devices) is None
    assert claim_next(ctx, "train", owner="n1.7/train#9", host="n1.7", job_id="another") is None
    own = claim_next(ctx, "train", owner="n1.7/train#9", host="n1.7", devices=("0",), job_id=placed)
    assert own is not None
    assert (own.job_id, own.device) == (placed, "0")
    assert claim_next(ctx, "train", owner="n2.8/train#9", host="n2.8", job_id=placed) is None, "its lease is held"
    give_back(ctx, own)
    again = claim_next(ctx, "train", owner="n2.8/train#9", host="n2.8", job_id=placed)
    assert again is not None
    assert again.attempt == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Next in the queue"),
        (
            {"attempt": 1, "lost": 1},
            "Worker lost; waiting to resume from the last checkpoint, if any (attempt 2)",
        ),
        ({"attempt": 1}, "Waiting to resume from the last checkpoint, if any (attempt 2)"),
        ({"placement": "slurm:gpu"}, "Waiting for Slurm: gpu"),
        ({"placement": "slurm:gpu", "attempt": 1}, "Waiting for Slurm: gpu to resume, attempt 2"),
        (
            {"placement": "slurm:gpu", "attempt": 2, "lost": 1},
            "Worker lost; waiting for Slurm: gpu to resume, attempt 3",
        ),
    ],
)
def test_a_waiting_run_says_what_it_waits_for_and_whether_a_worker_was_lost(values: dict[str, Any], words: str) -> None:
    job = Job(**{"attempt": 0, "lost": 0, "placement": None, **values})
    assert describe_state(Status.QUEUED, job=job, last_step=0, ahead=0) == words
