"""The parent of a job: what it reads of its child's files, and how a job ends whose outcome can't be recorded."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from backend.db.tables import Job
from backend.domain.jobs.events import CheckpointEvent, ItemEvent
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import JobKind, Status
from backend.infra.artifacts import Artifacts
from backend.services.context import Context
from backend.services.jobs.claims import Claim, change_part, claim_job
from backend.services.jobs.gangs import await_gang, choose_gang, join_gang
from backend.services.jobs.jobs import get_job, request_stop
from backend.services.jobs.workers import beat
from jobs import runner
from jobs.fork_server import ForkServer
from jobs.reporter import FileReporter
from jobs.runner import execute, explain_error
from jobs.tailing import MAX_BATCH_BYTES, OutputTail, Tail, parse_events
from tests.support.installation import wait_until
from tests.support.jobs import add_stored_job, list_jobs
from tests.support.scenario import Scenario


def test_a_killed_replica_is_said_to_start_again_and_a_killed_run_to_need_memory(tmp_path: Path) -> None:
    of_replica, of_run = (runner.explain_exit(-9, tmp_path, restarts=restarts) for restarts in (True, False))
    assert "starts again by itself" in of_replica.remedy
    assert "micro-batch" not in of_replica.remedy
    assert "micro-batch" in of_run.remedy


def test_a_job_whose_result_can_not_be_recorded_fails_with_its_cause_instead_of_a_retry(ctx: Context) -> None:
    source = ctx.artifacts.folder("uploads", "lines") / "lines.txt"
    source.write_text("The roundhouse is warm.\n" * 20)
    payload: dict[str, Any] = {
        "source": ctx.artifacts.relative(source),
        "hub": None,
        "kind": "text",
        "mapping": {},
        "val_fraction": 0.0,
        "seed": 1,
        "out_root": "datasets",
    }
    with ctx.db.write() as session:  # an import whose version is gone: its recorder finds no row
        job_id = add_stored_job(session, ctx, JobKind.IMPORT_DATASET, title="Import lines", payload=payload).id
    claim = claim_job(ctx, job_id, owner="w#1", host="lab")
    assert claim is not None
    assert execute(ctx, claim) is Status.FAILED
    job = get_job(ctx, job_id)
    assert (job.status, job.attempt) == (Status.FAILED, 1)
    assert "NoResultFound" in job.error.cause


@pytest.mark.parametrize(
    ("kind", "payload", "cause", "field"),
    [
        (
            JobKind.EVALUATE,
            {"kind": "guess"},
            "payload of this evaluate job can't be read: evaluation_id: is missing",
            "evaluation_id",
        ),
        (JobKind.LOGLIKELIHOOD, {"checkpoint": "b", "rows_file": "r", "tempo": 3}, "tempo is not a field", "tempo"),
        (JobKind.REPLICA, {"checkpoint": "b", "name": "x"}, "internal_token: is missing", "internal_token"),
    ],
    ids=["missing", "unknown field", "a replica, which would restart for ever"],
)
def test_a_job_with_an_invalid_payload_fails_once_with_the_reason(
    ctx: Context, kind: JobKind, payload: dict[str, Any], cause: str, field: str
) -> None:
    with ctx.db.write() as session:
        is_replica = kind is JobKind.REPLICA
        job_id = add_stored_job(session, ctx, kind, payload=payload, restarts_forever=is_replica).id
    claim = claim_job(ctx, job_id, owner="w#1", host="lab")
    assert claim is not None
    assert execute(ctx, claim) is Status.FAILED
    job = get_job(ctx, job_id)
    assert (job.status, job.attempt, job.error.field) == (Status.FAILED, 1, field)
    assert cause in job.error.cause
    assert "start the work again" in job.error.remedy


@pytest.fixture
def run_forked(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[Status | None]]]:
    """Runs a forked job that does a deed, until it ends; returns its states after each attempt."""
    monkeypatch.setattr(runner, "CHILD_MODULE", "tests.support.workers.odd_child")
    monkeypatch.setattr("jobs.fork_server.FORKED", {JobKind.EXPORT_DATASET})  # quickly imported
    servers = dict[object, ForkServer]()
    monkeypatch.setattr("jobs.fork_server._servers", servers)

    def run(deed: str) -> list[Status | None]:
        payload = {"dataset": "d", "version_id": "v", "format": "jsonl", "out": "exports/a"}
        with ctx.db.write() as session:
            job_id = add_stored_job(session, ctx, JobKind.EXPORT_DATASET, payload=payload).id
        (ctx.artifacts.job_folder(job_id) / "deed").write_text(deed)
        states: list[Status | None] = []
        while (claim := claim_job(ctx, job_id, owner="w#1", host="lab")) is not None:
            states.append(execute(ctx, claim))
        return states

    yield run
    for server in servers.values():
        server.close()


def test_a_job_killed_with_its_fork_server_starts_again_and_fails_at_the_third_loss(
    ctx: Context, run_forked: Callable[[str], list[Status | None]]
) -> None:
    assert run_forked("orphaned") == [Status.QUEUED, Status.QUEUED, Status.FAILED]
    (job,) = list_jobs(ctx)
    assert (
        job.error.cause
        == "The job's process was killed, and so was the server that forked it. This happened too often."
    )
    assert "its memory" in job.error.remedy


def test_a_job_whose_fork_server_is_killed_runs_on_to_its_end(
    ctx: Context, run_forked: Callable[[str], list[Status | None]]
) -> None:
    assert run_forked("orphaned, finished") == [Status.FINISHED]
    (job,) = list_jobs(ctx)
    assert job.result["folder"] == "exports/a"


def test_a_line_longer_than_a_batch_is_read_whole_and_so_is_what_follows(tmp_path: Path) -> None:
    long = json.dumps({"type": "result", "result": {"text": "x" * (MAX_BATCH_BYTES + 10)}})
    (tmp_path / "events.jsonl").write_text(
        f'{{"type":"log","text":"a"}}\n{long}\n{{"type":"progress","done":1,"total":2}}\n'
    )
    tail = Tail(tmp_path / "events.jsonl")
    kinds: list[str] = []
    while events := parse_events(tail.read()):
        kinds += [event.type for event in events]
    assert kinds == ["log", "result", "progress"]


def test_output_without_an_end_of_line_is_read_once_and_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    tail = OutputTail(path)
    assert tail.read() == []
    path.write_bytes(b"Loading\r\nrows\n\n 1/9\r 2/9\r")
    assert tail.read() == [b"Loading", b"rows", b"", b" 2/9"]
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(b" 3/9\r 4/9")
    assert tail.read() == [b" 3/9"]
    with path.open("ab") as file:
        file.write(b"." * (2 * MAX_BATCH_BYTES))
    assert [len(line) for line in tail.read()] == [MAX_BATCH_BYTES]
    assert [len(line) for line in tail.read()] == [MAX_BATCH_BYTES]
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(b"done\n")
    assert tail.read() == [b"....done"]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_error_of_another_machine_ends_a_job_as_its_own_would(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_stopped: bool
) -> None:
    """It was taken for a fault of the supervisor: a stop request was forgotten, and nothing left was sent."""
    ctx = replace(ctx, artifacts=Artifacts(ctx.artifacts.root, url=f"file://{ctx.artifacts.root}-store", cache_gb=1))
    monkeypatch.setattr(runner, "CHILD_MODULE", "tests.support.workers.odd_child")
    Scenario(ctx).parts()
    for folder in ("datasets/tales", "tokenizers/pieces"):
        (ctx.artifacts.folder(*folder.split("/")) / "rows").write_text("x")
    for host in "ab":
        beat(ctx, name=f"{host}/train", host=host, pid=1, slots={"train": 1}, devices=[], gauges={})  # type: ignore[arg-type]
    run = Scenario(ctx).run(devices={"count": 2, "nodes": 2})
    members = []
    for host in "ab":
        choice = choose_gang(ctx, "train", host=host, devices=())
        assert choice is not None
        members.append(join_gang(ctx, choice, owner=f"{host}/train#1", host=host, devices=()))
    first, second = (await_gang(ctx, member) for member in members if member is not None)
    assert isinstance(first, Claim)
    assert isinstance(second, Claim)
    folder = ctx.artifacts.job_folder(first.job_id)
    (folder / "deed").write_text("wait")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(execute, ctx, first)
        with ctx.db.write() as session:
            change_part(session, second, stage="ready")
        wait_until(lambda: (folder / "attempt-1" / "job.json").exists(), what="its process")
        if is_stopped:
            request_stop(ctx, first.job_id)
        with ctx.db.write() as session:
            change_part(session, second, stage="ended", error=JobFailure(cause="No memory.", remedy="Add some."))
        assert ended.result(60) is (Status.CANCELLED if is_stopped else Status.FAILED)
    error = get_job(ctx, first.job_id).error
    assert error.cause == ("Stopped on request." if is_stopped else "b: No memory.")
    assert "Traceback" not in caplog.text
    assert run.job_id == first.job_id
    assert ctx.artifacts.outbox is not None
    ctx.artifacts.outbox.finish(within_s=60)
    assert ctx.artifacts.store is not None
    assert f"jobs/{first.job_id}" in ctx.artifacts.store.list_folders("jobs")


def test_an_attempt_that_fails_after_another_took_its_job_ends_quietly(
    ctx: Context, run_forked: Callable[[str], list[Status | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fenced escaped from the handler of the first error."""

    def lose(folder: Path, claim: object) -> None:
        with ctx.db.write() as session:
            session.execute(update(Job).values(owner="w#2", attempt=2))
        raise OSError("The disk is gone.")

    monkeypatch.setattr(runner, "start_tracking", lose)
    assert run_forked("wait") == [None]
    (job,) = list_jobs(ctx)
    assert (job.status, job.owner) == (Status.RUNNING, "w#2")


def test_numbers_without_a_json_form_become_null(tmp_path: Path) -> None:
    line = b'{"type":"item","item_hash":"h","position":0,"values":{"a":NaN,"b":-Infinity,"c":1.5}}'
    assert parse_events([line]) == [ItemEvent(item_hash="h", position=0, values={"a": None, "b": None, "c": 1.5})]


def test_a_checkpoint_is_sent_once_the_steps_before_it_are_recorded(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine cut off from the database, not from the store, sent one, and the run continued from it without them."""
    is_away, sent = True, list[object]()

    def renew(*_: object, **__: object) -> None:
        if is_away:
            raise OperationalError("UPDATE jobs", {}, Exception("connection refused"))

    monkeypatch.setattr(runner, "renew", renew)
    monkeypatch.setattr(runner.outcomes, "record_events", lambda *_: None)
    event = CheckpointEvent(step=24, folder="runs/a/step-24")
    FileReporter(tmp_path / "events.jsonl", tmp_path / "control").emit(event)
    child, claim = SimpleNamespace(pid=os.getpid()), SimpleNamespace(kind=JobKind.TRAIN, payload=None)
    exchange: Any = SimpleNamespace(note=sent.extend)
    watch = runner._Watch(ctx, claim, tmp_path, child, threading.Event(), exchange, save_s=0)  # type: ignore[arg-type]
    assert watch._ship()
    assert sent == []
    is_away = False
    assert watch._ship()
    assert [event.folder for event in sent if isinstance(event, CheckpointEvent)] == [event.folder]


def test_a_job_that_a_full_disk_kept_from_starting_says_so_with_the_cure() -> None:
    """“The job could not be run: OSError: [Errno 28] No space left on device”."""
    failure = explain_error(OSError(errno.ENOSPC, "No space left on device"))
    assert failure.cause == "The disk was full when the job was to start."
    assert "resume" in failure.remedy
