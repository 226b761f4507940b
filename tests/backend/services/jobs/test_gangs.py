"""Jobs of several machines are taken by all of their machines or by none, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, func, select

from backend.db.tables import DeviceUse, GangMember, Job, Slot
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import Context
from backend.services.jobs.claims import (
    Claim,
    Fenced,
    change_part,
    claim_job,
    claim_next,
    end_job,
    give_back,
    renew,
    requeue_lost,
)
from backend.services.jobs.gangs import (
    GangChoice,
    Membership,
    await_gang,
    choose_gang,
    choose_placed,
    describe_gang,
    join_gang,
    leave_gang,
    list_members,
)
from backend.services.jobs.jobs import add_job, get_job, request_stop
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import beat, say_goodbye
from jobs import gang
from jobs.gang import GangLead, MachineLost
from tests.support.clock import Clock
from tests.support.scenario import add_row


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(any_ctx: Context, clock: Clock) -> Context:
    return replace(any_ctx, now=clock)


def submit(ctx: Context, clock: Clock, *, machines: int = 2, devices: int = 1, accum: int = 1) -> str:
    clock.advance(1)
    config = {"dataset": "d", "architecture": "a", "tokenizer": "t", "micro_batch": 4, "grad_accum_steps": accum}
    config["devices"] = {"count": machines * devices, "nodes": machines}
    payload = TrainPayload(run_id="r", run_folder="runs/r", dataset_kind="text", config=config)  # type: ignore[arg-type]
    with ctx.db.write() as session:
        return add_job(session, ctx, payload, title="job").id


def place(ctx: Context, job_id: str, *, device: str = "auto") -> None:
    with ctx.db.write() as session:
        job = session.get_one(Job, job_id)
        job.placement, job.device_request = "slurm:gpu", device


def start(ctx: Context, *hosts: str, gpus: int = 0, slots: int = 1) -> None:
    for host in hosts:
        devices = [str(number) for number in range(gpus)]
        beat(ctx, name=f"{host}/train", host=host, pid=1, slots={"train": slots}, devices=devices, gauges={})  # type: ignore[arg-type]


def choose(ctx: Context, host: str, *, gpus: int = 0) -> GangChoice | None:
    return choose_gang(ctx, "train", host=host, devices=tuple(map(str, range(gpus))))


def join(ctx: Context, host: str, *, gpus: int = 0) -> Membership | None:
    choice = choose(ctx, host, gpus=gpus)
    if choice is None or not choice.joins:
        return None
    devices = tuple(map(str, range(gpus)))
    return join_gang(ctx, choice, owner=f"{host}/train#1", host=host, devices=devices)


def claimed(ctx: Context, member: Membership | None) -> Claim[Any]:
    assert member is not None
    claim = await_gang(ctx, member)
    assert isinstance(claim, Claim)
    return claim


def small(ctx: Context, host: str) -> str | None:
    """Do what a worker does with a job of one machine, beside the gang that it looks at."""
    choice = choose(ctx, host)
    claim = claim_next(
        ctx, "train", owner=f"{host}/train#1", host=host, before=choice.place if choice is not None else None
    )
    return claim and claim.job_id


def test_a_gang_is_claimed_by_the_machine_that_completes_it(ctx: Context, clock: Clock) -> None:
    job_id = submit(ctx, clock)
    start(ctx, "a", "b")
    assert claim_next(ctx, "train", owner="w", host="a") is None
    assert claim_job(ctx, job_id, owner="w", host="a") is None
    first = join(ctx, "a")
    assert isinstance(await_gang(ctx, first), Membership)  # type: ignore[arg-type]
    assert join(ctx, "a") is None, "once a machine"
    assert get_job(ctx, job_id).status is Status.QUEUED
    second = join(ctx, "b")
    claims = [claimed(ctx, first), claimed(ctx, second)]
    assert [(one.part and one.part.number, one.part and one.part.hosts) for one in claims] == [
        (0, ("a", "b")),
        (1, ("a", "b")),
    ]
    job = get_job(ctx, job_id)
    assert (job.status, job.attempt, job.owner) == (Status.RUNNING, 1, "a/train#1")
    with ctx.db.read() as session:
        assert session.scalar(select(DeviceUse.num_devices)) == 2
    with ctx.db.write() as session:
        for one in claims:
            renew(session, ctx, one)
        end_job(session, ctx, claims[0], Status.FINISHED)
    with ctx.db.write() as session, pytest.raises(Fenced):
        renew(session, ctx, claims[1])
    for member in (first, second):
        leave_gang(ctx, member)  # type: ignore[arg-type]
    recover_jobs(ctx)
    clock.advance(1)
    recover_jobs(ctx)
    with ctx.db.read() as session:
        assert session.scalar(select(func.count()).select_from(GangMember)) == 0


@pytest.mark.parametrize("repeat", range(3))
def test_gangs_that_many_machines_join_at_once_are_placed_whole(ctx: Context, clock: Clock, repeat: int) -> None:
    jobs = [submit(ctx, clock, machines=4, devices=2) for _ in range(2)]
    hosts = [f"h{number}" for number in range(8)]
    start(ctx, *hosts, gpus=2, slots=2)
    together = threading.Barrier(len(hosts))

    def work(host: str) -> Claim[Any] | None:
        together.wait()
        for _ in range(200):
            member = join(ctx, host, gpus=2)
            while member is not None:
                state = await_gang(ctx, member)
                if isinstance(state, Claim):
                    return state
                if state is None:
                    leave_gang(ctx, member)
                    member = None
        return None

    with ThreadPoolExecutor(len(hosts)) as threads:
        claims = [one for one in threads.map(work, hosts) if one is not None]
    assert Counter(one.job_id for one in claims) == dict.fromkeys(jobs, 4)
    for job_id in jobs:
        mine = [one for one in claims if one.job_id == job_id]
        assert sorted(one.part.number for one in mine if one.part) == [0, 1, 2, 3]
        assert {one.part.hosts for one in mine if one.part} == {
            tuple(one.host for one in sorted(mine, key=lambda one: one.part.number if one.part else -1))
        }
    with ctx.db.read() as session:
        assert session.scalar(select(func.count()).select_from(Slot)) == 16


def test_a_placed_gang_is_taken_by_the_workers_that_were_started_for_it_all_or_none(ctx: Context, clock: Clock) -> None:
    """Of three, as where a controller has started one order twice, two take it; workers of the queue never do."""
    job_id = submit(ctx, clock)
    place(ctx, job_id)
    start(ctx, "a", "b", gpus=1)
    assert choose(ctx, "a", gpus=1) is None
    members = []
    for host in ("n1.7", "n2.7", "n2.8"):
        choice = choose_placed(ctx, job_id, host=host, devices=("0",))
        if choice is not None:
            members.append(join_gang(ctx, choice, owner=f"{host}/train#1", host=host, devices=("0",)))
        if host == "n1.7":
            assert await_gang(ctx, members[0]) == members[0]  # type: ignore[arg-type]
            assert choose_placed(ctx, job_id, host="n3.7") is not None
    claims = [claimed(ctx, member) for member in members]
    assert [(one.device, one.part and one.part.number) for one in claims] == [("0", 0), ("0", 1)]
    assert claims[0].part is not None
    assert claims[0].part.hosts == ("n1.7", "n2.7")
    with ctx.db.write() as session:
        requeue_lost(session, ctx, claims[0], error=JobFailure(), counts=True)
    leave_gang(ctx, members[0])  # type: ignore[arg-type]
    again = choose_placed(ctx, job_id, host="n1.7", devices=("0",))
    assert again is not None
    waiting = join_gang(ctx, again, owner="n1.7/train#1-2", host="n1.7", devices=("0",))
    assert waiting is not None
    clock.advance(14)
    assert await_gang(ctx, waiting) == waiting, "never on fewer: the provider starts as many again"
    request_stop(ctx, job_id)
    assert await_gang(ctx, waiting) is None


@pytest.mark.parametrize(
    ("request_", "devices", "expected"),
    [("cpu", ("0",), "cpu"), ("auto", (), "cpu"), ("auto", ("0",), "gpu"), ("gpu", (), None)],
)
def test_a_machine_of_a_placed_gang_joins_with_the_devices_that_the_run_asks_for(
    ctx: Context, clock: Clock, request_: str, devices: tuple[str, ...], expected: str | None
) -> None:
    job_id = submit(ctx, clock)
    place(ctx, job_id, device=request_)
    choice = choose_placed(ctx, job_id, host="n1.7", devices=devices)
    assert (choice and choice.plan.kind) == expected


def test_jobs_of_one_machine_go_on_until_a_gang_has_waited_for_its_time(ctx: Context, clock: Clock) -> None:
    start(ctx, "a", "b")
    running = submit(ctx, clock, machines=1)
    assert small(ctx, "a") == running
    gang = submit(ctx, clock)
    behind = [submit(ctx, clock, machines=1) for _ in range(2)]
    assert choose(ctx, "b") is None
    assert small(ctx, "b") == behind[0], "a is busy, so b need not wait"
    clock.advance(ctx.policy.gang_wait_s)
    start(ctx, "a", "b")
    with ctx.db.write() as session:
        session.get_one(Job, behind[0]).status = Status.FINISHED
        session.get_one(Job, running).lease_until = clock.now.replace(year=2031)
    assert small(ctx, "b") is None, "b is kept"
    kept = join(ctx, "b")
    assert kept is not None
    assert describe_gang(ctx, gang) == "Needs 2 machines at once: b is free; a is busy. Kept for it: b."
    with ctx.db.write() as session:
        session.get_one(Job, running).status = Status.FINISHED
    assert small(ctx, "a") is None
    claimed(ctx, join(ctx, "a"))
    claimed(ctx, kept)
    with ctx.db.write() as session:
        session.get_one(Job, gang).status = Status.FINISHED
    leave_gang(ctx, kept)
    assert small(ctx, "b") == behind[1]


def test_a_job_before_a_gang_goes_first(ctx: Context, clock: Clock) -> None:
    start(ctx, "a", "b")
    first, gang = submit(ctx, clock, machines=1), submit(ctx, clock)
    choice = choose(ctx, "a")
    assert choice is not None
    assert choice.job_id == gang
    assert small(ctx, "a") == first


def test_only_the_first_gang_keeps_machines(ctx: Context, clock: Clock) -> None:
    start(ctx, "a", "b", "c")
    impossible = submit(ctx, clock, machines=4)
    first, second = submit(ctx, clock, machines=3), submit(ctx, clock, machines=2)
    busy = submit(ctx, clock, machines=1)
    with ctx.db.write() as session:
        job = session.get_one(Job, busy)
        job.status, job.owner, job.lease_until = Status.RUNNING, "c/train#1", clock.now.replace(year=2031)
    with ctx.db.write() as session:
        session.get_one(Job, second).num_machines = 3
    clock.advance(ctx.policy.gang_wait_s)
    start(ctx, "a", "b", "c")
    assert [choose(ctx, host).job_id for host in "ab"] == [first, first]  # type: ignore[union-attr]
    assert "only a, b and c are there" in describe_gang(ctx, impossible)
    kept = join(ctx, "a")
    assert kept is not None
    assert isinstance(await_gang(ctx, kept), Membership)
    request_stop(ctx, first)
    assert await_gang(ctx, kept) is None
    leave_gang(ctx, kept)
    assert choose(ctx, "a").job_id == second  # type: ignore[union-attr]


@pytest.mark.parametrize("ends", [leave_gang, lambda ctx, member: ctx.now.advance(20)])
def test_a_machine_that_waits_and_goes_is_not_counted(
    ctx: Context, clock: Clock, ends: Callable[[Context, Membership], None]
) -> None:
    job_id = submit(ctx, clock)
    start(ctx, "a", "b", gpus=1)
    gone = join(ctx, "a", gpus=1)
    assert gone is not None
    ends(ctx, gone)
    start(ctx, "a", "b", gpus=1)
    other = join(ctx, "b", gpus=1)
    assert other is not None
    assert get_job(ctx, job_id).status is Status.QUEUED
    again = join(ctx, "a", gpus=1)
    claimed(ctx, again)
    assert get_job(ctx, job_id).status is Status.RUNNING


def test_a_machine_whose_gpu_another_job_took_while_it_waited_is_not_counted(ctx: Context, clock: Clock) -> None:
    job_id = submit(ctx, clock)
    start(ctx, "a", "b", gpus=1)
    late = join(ctx, "a", gpus=1)
    assert late is not None
    clock.advance(16)  # its process was stopped for longer than its lease
    other = submit(ctx, clock, machines=1)
    claim = claim_next(ctx, "train", owner="a/train#2", host="a", devices=("0",))
    assert claim is not None
    assert claim.job_id == other
    start(ctx, "a", "b", gpus=1)
    assert await_gang(ctx, late) is None
    leave_gang(ctx, late)
    join(ctx, "b", gpus=1)
    assert get_job(ctx, job_id).status is Status.QUEUED
    with ctx.db.write() as session:
        renew(session, ctx, claim)


def test_a_machine_keeps_no_gpu_for_a_gang_that_will_train_on_others_without_any(ctx: Context, clock: Clock) -> None:
    submit(ctx, clock)
    start(ctx, "a", "b", gpus=1)
    member = join(ctx, "a", gpus=1)
    assert member is not None
    assert await_gang(ctx, member) == member
    say_goodbye(ctx, "b/train")
    start(ctx, "c", "d")
    assert await_gang(ctx, member) is None


def test_gangs_do_not_overtake_a_job_that_waits_for_more_gpus_than_are_free(ctx: Context, clock: Clock) -> None:
    def take(host: str) -> Claim[Any] | None:
        return claim_next(ctx, "train", owner=f"{host}/train#1", host=host, devices=("0", "1"))

    start(ctx, "a", "b", gpus=2, slots=4)
    for _ in range(2):
        submit(ctx, clock, machines=1)
    running = [take(host) for host in "ab"]  # one GPU of each is free
    before, waiting, behind = submit(ctx, clock), submit(ctx, clock, machines=1, devices=2), submit(ctx, clock)
    assert [take(host) for host in "ab"] == [None, None]
    first = [join(ctx, host, gpus=2) for host in "ab"]
    assert get_job(ctx, before).status is Status.RUNNING, "it came before the one that waits"
    lead = claimed(ctx, first[0])
    with ctx.db.write() as session:
        end_job(session, ctx, lead, Status.FINISHED)
    for member in first:
        leave_gang(ctx, member)  # type: ignore[arg-type]
    assert [join(ctx, host, gpus=2) for host in "ab"] == [None, None]
    assert "a and b are busy" in describe_gang(ctx, behind)
    assert running[0] is not None
    with ctx.db.write() as session:
        end_job(session, ctx, running[0], Status.FINISHED)
    assert join(ctx, "a", gpus=2) is None
    claim = take("a")
    assert claim is not None
    assert claim.job_id == waiting


def test_a_machine_that_leaves_while_another_completes_the_gang_is_no_error(ctx: Context, clock: Clock) -> None:
    """Either it has left before, and the job waits, or it is one of the machines and has told that it left."""
    job_id = submit(ctx, clock)
    start(ctx, "a", "b")
    leaver = join(ctx, "a")
    assert leaver is not None
    threads: list[threading.Thread] = []

    def leave_meanwhile(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE jobs") and not threads:
            threads.append(threading.Thread(target=leave_gang, args=(ctx, leaver)))
            threads[0].start()
            threads[0].join(1)  # it waits for a lock that this transaction holds, or is through

    event.listen(ctx.db.engine, "before_cursor_execute", leave_meanwhile)
    try:
        join(ctx, "b")
    finally:
        event.remove(ctx.db.engine, "before_cursor_execute", leave_meanwhile)
        threads[0].join()
    job = get_job(ctx, job_id)
    assert job.status is Status.RUNNING
    assert [(one.host, one.stage) for one in list_members(ctx, job_id)] == [("a", "left"), ("b", "placed")]


def beat_again(ctx: Context, name: str, pid: int, *, is_first: bool = False) -> None:
    rest: dict[str, Any] = {"slots": {"train": 1}, "devices": [], "gauges": MachineGauges()}
    beat(ctx, name=name, host="a", pid=pid, is_first=is_first, **rest)


@pytest.mark.parametrize("other", ["a/train", "a/cpu+train"])
def test_two_workers_of_one_name_are_one_machine_and_the_job_says_so(ctx: Context, clock: Clock, other: str) -> None:
    job_id = submit(ctx, clock)
    for name, pid in (("a/train", 1), (other, 2), ("a/train", 1)):
        beat_again(ctx, name, pid)
    assert join(ctx, "a") is None
    assert describe_gang(ctx, job_id) == (
        "Needs 2 machines at once: only a is there. Start 1 training worker more. Workers of one name count as one"
        " machine, and a has several: give each a ROUNDHOUSE_WORKER_HOST of its own."
    )


def test_a_worker_that_starts_again_shares_its_name_with_none(ctx: Context, clock: Clock) -> None:
    job_id = submit(ctx, clock)
    for pid, is_first in ((1, True), (1, False), (2, True), (2, False)):
        beat_again(ctx, "a/train", pid, is_first=is_first)
    assert describe_gang(ctx, job_id).endswith("only a is there. Start 1 training worker more.")


def run_gang(ctx: Context, *hosts: str) -> list[Claim[Any]]:
    members = [join(ctx, host) for host in hosts]
    return [claimed(ctx, member) for member in members]


def test_a_gang_that_lost_a_machine_waits_for_another_and_then_goes_on_with_fewer(ctx: Context, clock: Clock) -> None:
    job_id = submit(ctx, clock)
    start(ctx, "a", "b")
    first, _ = run_gang(ctx, "a", "b")
    clock.advance(12)
    start(ctx, "a")
    with ctx.db.write() as session:
        renew(session, ctx, first)
    clock.advance(4)
    recover_jobs(ctx)
    members = list_members(ctx, job_id)
    assert [(one.host, one.is_alive) for one in members] == [("a", True), ("b", False)], (
        "its first machine is to see it"
    )
    with ctx.db.write() as session:
        status = requeue_lost(session, ctx, first, error=JobFailure(cause="b was lost."), counts=True)
    assert status is Status.QUEUED
    leave_gang(ctx, Membership(job_id, "a", "a/train#1", None))
    assert choose(ctx, "a") is None, "b may come back"
    clock.advance(11)
    start(ctx, "a")
    (alone,) = run_gang(ctx, "a")
    assert (alone.attempt, alone.part and alone.part.hosts) == (2, ("a",))


def test_a_gang_whose_first_machine_is_lost_is_queued_again(ctx: Context, clock: Clock) -> None:
    job_id = submit(ctx, clock)
    start(ctx, "a", "b")
    _, second = run_gang(ctx, "a", "b")
    clock.advance(10)
    with ctx.db.write() as session:
        renew(session, ctx, second)
    clock.advance(6)
    assert recover_jobs(ctx).requeued == [job_id]
    with ctx.db.write() as session, pytest.raises(Fenced):
        renew(session, ctx, second)
    clock.advance(1)
    start(ctx, "a", "b")
    leave_gang(ctx, Membership(job_id, "b", "b/train#1", None))
    assert [one.attempt for one in run_gang(ctx, "b", "a")] == [2, 2]


def test_a_gang_whose_first_machine_leaves_waits_before_it_goes_on_with_fewer(ctx: Context, clock: Clock) -> None:
    submit(ctx, clock)
    clock.advance(60)
    start(ctx, "a", "b")
    first, second = run_gang(ctx, "a", "b")
    give_back(ctx, first)
    leave_gang(ctx, Membership(second.job_id, "b", second.owner, None))
    say_goodbye(ctx, "a/train")
    assert choose(ctx, "b") is None, "a starts again"
    clock.advance(11)
    start(ctx, "b")
    assert choose(ctx, "b") is not None


def test_a_machine_that_wakes_late_gives_back_nothing_that_it_has_taken_again(ctx: Context, clock: Clock) -> None:
    submit(ctx, clock)
    start(ctx, "a", "b", gpus=1)
    before = [join(ctx, host, gpus=1) for host in "ab"]
    claimed(ctx, before[1])
    clock.advance(20)
    recover_jobs(ctx)
    clock.advance(1)
    start(ctx, "a", "b", gpus=1)
    choice = choose(ctx, "b", gpus=1)
    assert choice is not None
    assert join_gang(ctx, choice, owner="b/train#1-again", host="b", devices=("0",)) is not None
    leave_gang(ctx, before[1])  # type: ignore[arg-type]
    with ctx.db.read() as session:
        assert session.scalars(select(Slot.host)).all() == ["b"]


@pytest.mark.parametrize("comes_back", [True, False])
def test_machines_renew_their_leases_after_a_database_that_was_away(
    ctx: Context, clock: Clock, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setattr(gang, "CHECK_S", 0.0)
    submit(ctx, clock)
    start(ctx, "a", "b")
    first, second = run_gang(ctx, "a", "b")
    lead = GangLead(ctx, first)
    lead.check()
    clock.advance(600)  # nobody could renew anything
    lead.check()
    clock.advance(5)
    lead.check()
    if comes_back:
        with ctx.db.write() as session:
            renew(session, ctx, second)
    clock.advance(4)
    if comes_back:
        lead.check()
        return
    with pytest.raises(MachineLost, match="b was lost"):
        lead.check()


def test_a_machine_whose_lease_lapses_is_lost_at_once(
    ctx: Context, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang, "CHECK_S", 0.0)
    submit(ctx, clock)
    start(ctx, "a", "b")
    lead = GangLead(ctx, run_gang(ctx, "a", "b")[0])
    for _ in range(14):
        clock.advance(1)
        lead.check()
    clock.advance(2)
    with pytest.raises(MachineLost, match="b was lost"):
        lead.check()


def told_by_other(ctx: Context, other: Claim[Any], stage: str, cause: str) -> None:
    with ctx.db.write() as session:
        change_part(session, other, stage=stage, error=JobFailure(cause=cause))


def test_a_frozen_process_of_another_machine_is_a_loss_at_once(
    ctx: Context, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang, "CHECK_S", 0.0)
    submit(ctx, clock)
    start(ctx, "a", "b")
    first, second = run_gang(ctx, "a", "b")
    told_by_other(ctx, second, "frozen", "Its process 7 has been stopped for 8 s.")
    with pytest.raises(MachineLost, match="b: Its process 7 has been stopped for 8 s") as raised:
        GangLead(ctx, first).check()
    assert raised.value.counts


def test_what_only_echoes_a_loss_is_shown_if_no_cause_arrives(
    ctx: Context, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang, "CHECK_S", 0.0)
    monkeypatch.setattr(gang, "MARGIN_S", -ctx.policy.lease_s)
    job_id = submit(ctx, clock)
    for attempt in range(ctx.policy.max_attempts):
        start(ctx, "a", "b")
        first, second = run_gang(ctx, "a", "b")
        told_by_other(ctx, second, "echoed", "RuntimeError: NCCL error: no socket interface found")
        lead = GangLead(ctx, first)
        lead.check()  # learns of it
        with pytest.raises(MachineLost) as raised:
            lead.check()
        gang.give_up(ctx, first, raised.value)
        for host in "ab":
            leave_gang(ctx, Membership(job_id, host, f"{host}/train#1", None))
        clock.advance(1)
        assert get_job(ctx, job_id).attempt == attempt + 1
    job = get_job(ctx, job_id)
    assert job.status is Status.FAILED
    assert job.error.cause == (
        "The machines of this run lost their connection to each other: RuntimeError: NCCL error: no socket interface"
        " found. This happened too often."
    )


def test_a_gang_that_is_lost_too_often_fails(ctx: Context, clock: Clock) -> None:
    job_id = submit(ctx, clock)
    for attempt in range(1, 4):
        start(ctx, "a", "b")
        first, _ = run_gang(ctx, "a", "b")
        assert first.attempt == attempt
        with ctx.db.write() as session:
            requeue_lost(session, ctx, first, error=JobFailure(cause="b was lost."), counts=True)
        for host in "ab":
            leave_gang(ctx, Membership(job_id, host, f"{host}/train#1", None))
        clock.advance(1)
    job = get_job(ctx, job_id)
    assert (job.status, job.error.cause) == (Status.FAILED, "b was lost.")


def test_other_kinds_take_one_machine(ctx: Context) -> None:
    add_row(ctx, Job(kind=JobKind.EXPORT, queue="cpu", title="export"))
    assert choose(ctx, "a") is None
