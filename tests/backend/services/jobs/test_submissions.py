"""Orders of workers from a provider whose answers are scripted, on SQLite and on PostgreSQL.
tests/faults/machines/test_slurm.py has the real one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import select

from backend import bootstrap
from backend.cli.doctor import check_provider
from backend.db.tables import Job, Submission
from backend.domain.jobs.placement import Partition, SubmissionState, shards_key, submission_key
from backend.domain.jobs.states import JobKind, Status
from backend.errors import InvalidInput, Unavailable
from backend.infra.compute.base import SubmittedOrder, WorkerOrder
from backend.infra.compute.slurm import Slurm
from backend.services.context import Context
from backend.services.jobs import submissions
from backend.services.jobs.claims import claim_next, give_back
from backend.services.jobs.gangs import choose_placed, join_gang
from backend.services.jobs.jobs import get_job, read_log, request_stop
from backend.services.jobs.placements import check_placement, describe_nodes, describe_waiting, list_providers
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.submissions import tend_submissions
from jobs import job_worker
from jobs.job_worker import work_for
from tests.support.clock import Clock
from tests.support.jobs import add_stored_job
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings


@dataclass
class ScriptedProvider:
    """A cluster that does what a test says. It accepts every order, unless it is given an error to answer with."""

    listed: dict[str, SubmittedOrder] = field(default_factory=dict)
    orders: list[WorkerOrder] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    fails_with: Exception | None = None
    partitions: tuple[Partition, ...] = (Partition(name="gpu", num_nodes=2, num_gpus=4),)
    ids_that_stay: tuple[str, ...] = ()
    name: str = "slurm"

    def check(self) -> Sequence[Partition]:
        return self.partitions

    def submit(self, order: WorkerOrder) -> str:
        self.orders.append(order)
        number = str(len(self.orders))
        if not isinstance(self.fails_with, InvalidInput):
            self.listed[order.key] = SubmittedOrder(number, order.key, SubmissionState.WAITING, "PENDING", "Priority")
        if self.fails_with is not None:
            raise self.fails_with
        return number

    def status(self) -> Sequence[SubmittedOrder]:
        return list(self.listed.values())

    def log(self, key: str, output: Path) -> Sequence[str]:
        return (f"output of {key} in {output.name}",)

    def cancel(self, submission_id: str) -> None:
        if submission_id in self.ids_that_stay:
            raise Unavailable("Slurm did not answer scancel in 30 s.")
        self.cancelled.append(submission_id)

    def change(self, key: str, state: SubmissionState, word: str) -> None:
        self.listed[key] = replace(self.listed[key], state=state, word=word, reason="")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(any_ctx: Context, clock: Clock) -> Context:
    return replace(any_ctx, now=clock)


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
def job_id(ctx: Context) -> str:
    with ctx.db.write() as session:
        return add_stored_job(session, ctx, JobKind.TRAIN, payload={"n": 1}, placement="slurm:gpu").id


def orders(ctx: Context) -> list[tuple[int, str, str | None]]:
    with ctx.db.read() as session:
        rows = session.scalars(select(Submission).order_by(Submission.number))
        return [(row.number, row.state, row.external_id) for row in rows]


def take(ctx: Context, job_id: str) -> object:
    claim = claim_next(ctx, "train", owner="n1.1/train#1", host="n1.1", job_id=job_id)
    assert claim is not None
    return claim


def test_a_job_that_waits_has_one_order_however_many_look(
    ctx: Context, provider: ScriptedProvider, job_id: str
) -> None:
    tend_submissions(ctx, provider)
    # of a sweep that saw the job before that order
    submissions._order(ctx, provider, job_id, offered={"slurm:gpu": provider.partitions[0]})
    tend_submissions(ctx, provider)
    assert orders(ctx) == [(1, "waiting", "1")]
    (order,) = provider.orders
    assert (order.key, order.partition, order.num_gpus) == (f"roundhouse-{job_id}-1", "gpu", 1)
    waiting = describe_waiting(ctx, job_id)
    assert waiting is not None
    assert waiting.sentence == "Slurm: gpu, job 1. Slurm says: Priority."


def test_a_job_of_several_machines_is_one_order_for_all_of_them(
    ctx: Context, provider: ScriptedProvider, job_id: str
) -> None:
    with ctx.db.write() as session:
        job = session.get_one(Job, job_id)
        job.num_machines, job.num_devices = 2, 4
    tend_submissions(ctx, provider)
    (order,) = provider.orders
    assert (order.num_machines, order.num_gpus, order.num_cpus) == (2, 4, 1)
    provider.change(order.key, SubmissionState.RUNNING, "RUNNING")
    tend_submissions(ctx, provider)
    assert sentence(ctx, job_id) == "Slurm: gpu, job 1 has started: 0 of its 2 workers are there."
    choice = choose_placed(ctx, job_id, host="n1.1")
    assert choice is not None
    join_gang(ctx, choice, owner="n1.1/train#1", host="n1.1")
    assert sentence(ctx, job_id) == "Slurm: gpu, job 1 has started: 1 of its 2 workers are there."


@pytest.mark.parametrize(
    ("devices", "device", "words"),
    [
        (
            {"count": 4, "nodes": 2},
            "auto",
            "2 nodes of Slurm: gpu, with 2 GPUs each; Slurm starts them together or not",
        ),
        ({"count": 4, "nodes": 2}, "cpu", "2 nodes of Slurm: gpu, with 2 CPU cores each; Slurm starts them together"),
        ({"count": 1}, "auto", "One node of Slurm: gpu, with 1 GPU."),
        ({"count": 3, "nodes": 3}, "auto", "Slurm: gpu has 2 nodes, and this run needs 3 machines."),
        ({"count": 8}, "gpu", "Slurm: gpu has 4 GPUs a node, and this run needs 8 on each machine."),
    ],
)
def test_before_the_launch_it_is_said_which_nodes_a_run_takes_or_why_it_cannot(
    ctx: Context, provider: ScriptedProvider, devices: dict[str, int], device: str, words: str
) -> None:
    tend_submissions(ctx, provider)
    config = tiny_run("planned", devices=devices, device=device)
    assert describe_nodes(ctx, "slurm:gpu", config).startswith(words)
    if "needs" in words:
        with pytest.raises(InvalidInput, match=re.escape(words)):
            check_placement(ctx, "slurm:gpu", config)
    else:
        assert check_placement(ctx, "slurm:gpu", config) == "slurm:gpu"
    assert "offers no partition 'old'" in describe_nodes(ctx, "slurm:old", config)


def test_an_answer_that_was_lost_is_no_second_order(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock
) -> None:
    provider.fails_with = Unavailable("Slurm did not answer sbatch in 30 s.")
    tend_submissions(ctx, provider)
    assert orders(ctx) == [(1, "waiting", None)]
    clock.advance(300)
    tend_submissions(ctx, provider)
    assert orders(ctx) == [(1, "waiting", "1")]
    assert len(provider.orders) == 1


def test_an_order_that_never_arrived_is_made_again(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock
) -> None:
    provider.fails_with = Unavailable("Slurm did not answer sbatch in 30 s.")
    tend_submissions(ctx, provider)
    provider.listed.clear()
    provider.fails_with = None
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 1, "it may still be on its way"
    for _ in range(3):
        clock.advance(61)
        tend_submissions(ctx, provider)
    assert orders(ctx) == [(1, "ended", None), (2, "waiting", "2")]


def test_a_job_whose_order_is_forgotten_gets_another_unless_it_runs(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock
) -> None:
    tend_submissions(ctx, provider)
    provider.listed.clear()
    tend_submissions(ctx, provider)
    clock.advance(10)
    tend_submissions(ctx, provider)
    waiting = describe_waiting(ctx, job_id)
    assert waiting is not None
    assert waiting.sentence == "Slurm: gpu, job 1 is no longer listed by Slurm; resubmitting shortly."
    claim = take(ctx, job_id)  # of the worker that had been started
    clock.advance(14)
    tend_submissions(ctx, provider)
    assert orders(ctx) == [(1, "waiting", "1")], "its lease holds"
    assert claim is not None
    clock.advance(10)
    recover_jobs(ctx)
    tend_submissions(ctx, provider)
    assert [state for _, state, _ in orders(ctx)] == ["ended", "waiting"]


def test_a_job_that_is_given_back_waits_for_the_end_of_its_order(
    ctx: Context, provider: ScriptedProvider, job_id: str
) -> None:
    """Slurm requeues what it has preempted, under the same key; only what has ended is ordered again."""
    tend_submissions(ctx, provider)
    key = f"roundhouse-{job_id}-1"
    provider.change(key, SubmissionState.RUNNING, "RUNNING")
    claim = claim_next(ctx, "train", owner="n1.1/train#1", host="n1.1", job_id=job_id)
    assert claim is not None
    give_back(ctx, claim)
    tend_submissions(ctx, provider)
    provider.change(key, SubmissionState.WAITING, "PENDING")
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 1
    provider.change(key, SubmissionState.ENDED, "COMPLETED")
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 2
    assert read_log(ctx, job_id) == ["The worker n1.1/train#1 was stopped, and gave the job back."]


def test_a_job_whose_worker_died_with_its_node_is_ordered_again_although_the_order_is_said_to_run(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock
) -> None:
    tend_submissions(ctx, provider)
    key = f"roundhouse-{job_id}-1"
    provider.change(key, SubmissionState.RUNNING, "Running")
    take(ctx, job_id)
    clock.advance(16)
    assert recover_jobs(ctx).requeued == [job_id]
    clock.advance(30)
    tend_submissions(ctx, provider)
    assert provider.cancelled == [], "the worker may take it again"
    clock.advance(31)
    tend_submissions(ctx, provider)
    assert provider.cancelled == ["1"]
    del provider.listed[key]
    for _ in range(3):
        clock.advance(21)
        tend_submissions(ctx, provider)
    assert orders(ctx) == [(1, "ended", "1"), (2, "waiting", "2")]


def test_three_workers_that_never_take_a_job_fail_it(ctx: Context, provider: ScriptedProvider, job_id: str) -> None:
    for number in (1, 2, 3):
        tend_submissions(ctx, provider)
        provider.change(f"roundhouse-{job_id}-{number}", SubmissionState.ENDED, "FAILED")
    tend_submissions(ctx, provider)
    job = get_job(ctx, job_id)
    assert (job.status, len(provider.orders)) == (Status.FAILED, 3)
    assert job.error.tail == f"output of {submission_key(job_id, 3)} in slurm-3.log"
    assert "slurm job 1 ended before a worker took this job: FAILED" in read_log(ctx, job_id)


def test_a_refused_order_fails_the_job_with_the_words_of_the_provider(
    ctx: Context, provider: ScriptedProvider, job_id: str
) -> None:
    provider.fails_with = InvalidInput("Slurm refused (sbatch): Invalid account", remedy="Correct the account.")
    tend_submissions(ctx, provider)
    job = get_job(ctx, job_id)
    assert (job.status, job.error.cause) == (Status.FAILED, "Slurm refused (sbatch): Invalid account")


@pytest.mark.parametrize("state", [SubmissionState.WAITING, SubmissionState.RUNNING])
def test_the_order_of_an_ended_job_is_withdrawn(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock, state: SubmissionState
) -> None:
    """At once while no worker runs; one that runs may leave by itself first."""
    tend_submissions(ctx, provider)
    provider.change(f"roundhouse-{job_id}-1", state, state.name)
    request_stop(ctx, job_id)
    tend_submissions(ctx, provider)
    assert provider.cancelled == (["1"] if state is SubmissionState.WAITING else [])
    clock.advance(31)
    tend_submissions(ctx, provider)
    assert "1" in provider.cancelled


def test_tasks_of_shards_are_cancelled_once_their_import_has_ended(
    ctx: Context, provider: ScriptedProvider, job_id: str
) -> None:
    """Those of another installation of the same account, whose jobs are not here, are left alone."""
    with ctx.db.write() as session:
        running, ended = (add_stored_job(session, ctx, JobKind.IMPORT_DATASET, payload={"n": n}).id for n in (2, 3))
        session.get_one(Job, running).status, session.get_one(Job, ended).status = Status.RUNNING, Status.FAILED
    for number, owner in enumerate((running, ended, "elsewhere"), start=70):
        key = shards_key(owner, "0123abcd")
        provider.listed[key] = SubmittedOrder(str(number), key, SubmissionState.RUNNING, "RUNNING", "")
    tend_submissions(ctx, provider)
    assert provider.cancelled == ["71"]
    assert check_provider(provider).detail == "answers: gpu; 1 worker ordered"
    assert orders(ctx) == [(1, "waiting", "1")]


def test_a_partition_that_slurm_no_longer_has_keeps_no_order_from_its_end(
    ctx: Context, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cancelled = submission_key(job_id, 1), tmp_path / "cancelled"
    answers = {"sinfo": "gpu|up|2|gpu:4", "sbatch": "7", "squeue": f"7|PENDING|Priority|{key}"}
    for command, answer in answers.items():
        (tmp_path / command).write_text(f"#!/bin/sh\necho '{answer}'\n")
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" >{cancelled}\n')
    for command in (*answers, "scancel"):
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    slurm = Slurm(("gpu",), ("worker",), tmp_path, tmp_path, ())
    tend_submissions(ctx, slurm)
    assert orders(ctx) == [(1, "waiting", "7")]
    request_stop(ctx, job_id)
    tend_submissions(ctx, replace(slurm, partitions=("gpu", "old")))
    (state,) = list_providers(ctx)
    assert "Slurm has no partition 'old'" in state.problem
    assert cancelled.read_text() == "7\n"


def test_a_job_that_waits_for_another_is_not_ordered_yet(ctx: Context, provider: ScriptedProvider, job_id: str) -> None:
    with ctx.db.write() as session:
        before = add_stored_job(session, ctx, JobKind.IMPORT_DATASET, payload={"n": 1})
        session.get_one(Job, job_id).depends_on_id = before.id
    tend_submissions(ctx, provider)
    assert provider.orders == []
    with ctx.db.write() as session:
        session.get_one(Job, before.id).status = Status.FINISHED
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 1


def test_a_provider_that_is_not_asked_any_more_is_not_offered(
    ctx: Context, provider: ScriptedProvider, clock: Clock
) -> None:
    tend_submissions(ctx, provider)
    (state,) = list_providers(ctx)
    assert [choice.placement.label for choice in state.choices] == ["Slurm: gpu"]
    clock.advance(61)
    (state,) = list_providers(ctx)
    assert (state.choices, "worker with the settings of Slurm is not running" in state.problem) == ((), True)


def sentence(ctx: Context, job_id: str) -> str:
    waiting = describe_waiting(ctx, job_id)
    return waiting.sentence if waiting is not None else ""


def test_a_job_waits_while_its_partition_is_down_or_not_offered_and_keeps_no_other_from_its_order(
    ctx: Context, provider: ScriptedProvider, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "MAX_ORDERS", 1)
    (up,) = provider.partitions
    with ctx.db.write() as session:
        later = add_stored_job(session, ctx, JobKind.TRAIN, payload={"n": 2}, placement="slurm:low").id
    low = Partition(name="low", num_nodes=1)
    provider.partitions = (up.model_copy(update={"is_up": False}), low)
    tend_submissions(ctx, provider)
    assert [(order.job_id, order.num_gpus) for order in provider.orders] == [(later, 0)]
    assert sentence(ctx, job_id) == "Slurm: gpu is down (drained, stopped or in maintenance). Submitted when it is up."
    with pytest.raises(Unavailable, match="Slurm: gpu is down"):
        check_placement(ctx, "slurm:gpu", tiny_run("down"))
    provider.partitions = (low,)
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 1, "not ordered without its GPU"
    assert sentence(ctx, job_id) == "Slurm: gpu is not offered here any more; nothing is submitted."
    with pytest.raises(InvalidInput, match="offers no partition 'gpu' here"):
        check_placement(ctx, "slurm:gpu", tiny_run("gone"))
    provider.partitions = (up, low)
    tend_submissions(ctx, provider)
    assert [order.num_gpus for order in provider.orders] == [0, 1]


def test_an_order_that_is_refused_for_now_says_why_and_is_made_again(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock
) -> None:
    provider.fails_with = Unavailable("Slurm refused for now (sbatch): QOSMaxSubmitJobPerUserLimit")
    tend_submissions(ctx, provider)
    provider.listed.clear()
    provider.fails_with = None
    assert get_job(ctx, job_id).status is Status.QUEUED
    assert sentence(ctx, job_id) == (
        "Slurm: gpu. Not submitted yet: Slurm refused for now (sbatch): QOSMaxSubmitJobPerUserLimit."
        " Tried again shortly."
    )
    for _ in range(3):
        clock.advance(61)
        tend_submissions(ctx, provider)
    assert orders(ctx)[-1] == (2, "waiting", "2")


def test_an_order_that_fails_keeps_no_other_from_its_turn(
    ctx: Context, provider: ScriptedProvider, job_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a full disk at one order, nor a job of the provider that can't be cancelled."""
    with ctx.db.write() as session:
        add_stored_job(session, ctx, JobKind.TRAIN, payload={"n": 2}, placement="slurm:gpu")
    provider.fails_with = OSError("No space left on device")
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 2
    assert "could not be submitted: No space left on device" in caplog.text
    provider.fails_with, provider.ids_that_stay = None, ("1",)
    with ctx.db.read() as session:
        ids = list(session.scalars(select(Job.id)))
    for stopped in ids:
        request_stop(ctx, stopped)
    with ctx.db.write() as session:
        third = add_stored_job(session, ctx, JobKind.TRAIN, payload={"n": 3}, placement="slurm:gpu").id
    tend_submissions(ctx, provider)
    assert provider.cancelled == ["2"]
    assert provider.orders[-1].job_id == third


def test_a_sweep_of_orders_that_takes_long_leaves_the_rest_to_the_next(
    ctx: Context, provider: ScriptedProvider, job_id: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ctx.db.write() as session:
        for number in (2, 3):
            add_stored_job(session, ctx, JobKind.TRAIN, payload={"n": number}, placement="slurm:gpu")

    def submit_slowly(order: WorkerOrder) -> str:
        clock.advance(15)
        return ScriptedProvider.submit(provider, order)

    monkeypatch.setattr(provider, "submit", submit_slowly)
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 2
    (state,) = list_providers(ctx)
    assert state.problem == ""
    tend_submissions(ctx, provider)
    assert len(provider.orders) == 3


def test_a_worker_of_a_cluster_takes_no_job_of_a_newer_database(
    ctx: Context, job_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bootstrap, "newest_revision", lambda: "0001")
    settings = make_settings(ctx.artifacts.root.parent)
    assert work_for(ctx, settings, job_id, until_idle_s=0, stopping=threading.Event()) == 1
    assert "this worker knows 0001. Start it from the updated installation." in caplog.text
    assert get_job(ctx, job_id).attempt == 0


def test_a_pod_that_is_evicted_does_not_end_as_if_its_work_was_done(
    ctx: Context, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes would not replace it, and the other machines of its run would wait for it in vain."""
    settings, stopping = make_settings(ctx.artifacts.root.parent), threading.Event()
    stopping.set()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert work_for(ctx, settings, job_id, until_idle_s=60, stopping=stopping) == 0
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert work_for(ctx, settings, job_id, until_idle_s=60, stopping=stopping) == 143
    request_stop(ctx, job_id)
    assert get_job(ctx, job_id).status is Status.CANCELLED
    assert work_for(ctx, settings, job_id, until_idle_s=60, stopping=stopping) == 0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////home/lab/roundhouse.db", ""),
        ("postgresql+psycopg://lab@/lab?host=/run/postgresql", ""),
        ("postgresql+psycopg://lab@127.0.0.1:5433/lab", "127.0.0.1"),
    ],
)
def test_the_machines_of_a_placed_run_meet_at_an_address_that_faces_the_database(url: str, expected: str) -> None:
    assert job_worker.address_to(url) == expected


def test_a_worker_for_a_job_that_is_not_there_says_so(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_worker, "get_context", lambda: ctx)
    monkeypatch.setattr(job_worker.signal, "signal", lambda number, handler: None)  # this process keeps its own
    monkeypatch.setattr("sys.argv", ["job_worker", "no-such-job", "0"])
    with pytest.raises(SystemExit, match="no-such-job"):
        job_worker.main()
