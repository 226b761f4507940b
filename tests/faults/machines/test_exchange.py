"""Two machines with homes of their own, one database and one store: what one makes the other works on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from backend.bootstrap import build_context
from backend.domain.data.token_folders import MANIFEST, Manifest
from backend.domain.jobs.payloads import ExportPayload, TrainPayload
from backend.domain.jobs.states import JobKind, Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.errors import JobFailed, Unavailable
from backend.infra.artifacts import Artifacts
from backend.infra.store.folders import PIECES
from backend.infra.store.outbox import SEND
from backend.services.checkpoints.checkpoints import delete_checkpoint, list_checkpoints
from backend.services.checkpoints.exports import export_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import delete_dataset, list_datasets
from backend.services.data.imports import version_of_job
from backend.services.data.preview import preview_rows
from backend.services.data.row_pages import read_version_rows
from backend.services.estimates.probes import launch_probe
from backend.services.jobs.claims import claim_job
from backend.services.jobs.exports import export_file, get_export
from backend.services.jobs.jobs import JobView, get_job, request_stop
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training.runs import launch_run
from jobs.environment import child_environment
from jobs.exchange import FolderExchange
from jobs.runner import execute
from tests.support.data.dataset_world import queue_import
from tests.support.installation import wait_until
from tests.support.jobs import add_stored_job
from tests.support.run_world import tiny_run
from tests.support.scenario import Scenario
from tests.support.settings import database_of, make_settings
from tests.support.stores import SECRET, Store, folder_store, moto_store

LINES = "".join(f'{{"text": "Row {n}: the {n % 7} engines wait for steam in the roundhouse."}}\n' for n in range(60))


@pytest.fixture(params=["folder", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield folder_store(tmp_path / "store")
        return
    with moto_store() as running:
        yield running


Machine = Callable[[str], Context]


@pytest.fixture
def machine(store: Store, new_home: Path, tmp_path: Path) -> Iterator[Machine]:
    """Makes a machine's context: its own home, the team's database and store."""
    made: list[Context] = []

    def make(name: str) -> Context:
        settings = make_settings(
            tmp_path / name,
            database_url=database_of(new_home),
            secret_key="one secret for all the machines of a team",
            artifacts_url=store.url,
            artifacts_key=store.keys.key,
            artifacts_secret=store.keys.secret,
            artifacts_endpoint=store.keys.endpoint,
        )
        ctx = build_context(settings, migrate=False)
        made.append(ctx)
        return ctx

    yield make
    for ctx in made:
        ctx.db.engine.dispose()


def test_the_base_of_an_adapter_stays_while_its_job_runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (machine(name).artifacts.store for name in "ab")
    assert a is not None
    assert b is not None
    card = json.dumps({"base_path": "../base"})
    for path, text in {"base/x": "", "adapter/adapter_config.json": "{}", "adapter/roundhouse.json": card}.items():
        (a.root / "bases" / path).parent.mkdir(parents=True, exist_ok=True)
        (a.root / "bases" / path).write_text(text)
    for folder in ("bases/base", "bases/adapter"):
        a.send(folder)
    payload = ExportPayload(checkpoint="bases/adapter", checkpoint_id="c", format="merged", out="exports/e")
    claim = Mock(job_id="j", payload=payload, kind=JobKind.EXPORT)
    monkeypatch.setattr("jobs.exchange.stop_request", lambda ctx, claim: (None, None))
    exchange = FolderExchange(machine("b"), claim, threading.Event())
    with exchange.held():
        exchange.bring_inputs()
        assert (b.root / "bases/base/x").exists()
        assert b.is_pinned("bases/base")
    assert not b.is_pinned("bases/base")


def test_an_attempt_without_its_inputs_sends_no_older_copy_over_what_another_machine_has_done(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was stopped, or failed, while it fetched sent the ledger of its own earlier attempt."""
    monkeypatch.setattr("jobs.exchange.stop_request", lambda ctx, claim: (None, None))
    monkeypatch.setattr("jobs.exchange.ABSENT_S", 0.0)
    a, b = machine("a"), machine("b")
    for ctx, ledger in ((b, "1"), (a, "1 2")):
        (ctx.artifacts.job_folder("j") / "ledger").write_text(ledger)
        assert ctx.artifacts.store is not None
        ctx.artifacts.store.send("jobs/j")
    payload = ExportPayload(checkpoint="bases/none", checkpoint_id="c", format="merged", out="exports/e")
    exchange = FolderExchange(b, Mock(job_id="j", payload=payload, kind=JobKind.GENERATE), threading.Event())
    with exchange.held(), pytest.raises(JobFailed, match="has not uploaded it"):
        exchange.bring_inputs()
    exchange.send_outputs(None)
    assert b.artifacts.outbox is not None
    b.artifacts.outbox.finish(within_s=60, is_patient=True)
    third = machine("c")
    assert (third.artifacts.path("jobs/j") / "ledger").read_text() == "1 2"


def test_a_job_whose_machine_stays_full_fails_with_the_cure_and_loses_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.exchange.FULL_S", 0.0)
    a, b = machine("a"), machine("b")
    job_id = import_lines(a)
    store = b.artifacts.store
    assert a.artifacts.outbox is not None
    assert store is not None
    wait_until(lambda: not a.artifacts.outbox.entries(), what="the upload")
    store.keep_free_bytes = 10**18
    before = store.list_folders("uploads")
    job = work(b, job_id)
    assert job.status is Status.FAILED
    assert job.error.cause.startswith("b has had no room for this job for 0 minutes. uploads/")
    assert "Free disk space" in str(job.error.remedy)
    assert store.list_folders("uploads") == before


def test_a_worker_of_a_cluster_leaves_nothing_unsent_on_a_machine_that_goes_with_it(
    ctx: Context, tmp_path: Path
) -> None:
    home, url, folder = tmp_path / "pod", folder_store(tmp_path / "store").url, "runs/r/checkpoints/step-1"
    with ctx.db.write() as session:
        job_id = add_stored_job(session, ctx, JobKind.TRAIN, payload={}).id
    request_stop(ctx, job_id)
    store = Artifacts(home / "artifacts", url=url, cache_gb=1).store
    assert store is not None
    (store.root / folder).mkdir(parents=True)
    (store.root / folder / "model").write_text("weights")
    (store.outbox / quote(folder, safe="")).write_text(SEND)  # as the end of its run has noted
    environment = {
        **os.environ,
        "ROUNDHOUSE_HOME": str(home),
        "ROUNDHOUSE_ARTIFACTS": url,
        "DATABASE_URL": database_of(ctx.artifacts.root.parent),
    }
    subprocess.run([sys.executable, "-m", "jobs.job_worker", job_id, "0"], env=environment, check=True, timeout=300)
    assert store.list_folders("runs") == [folder]


def work(ctx: Context, job_id: str | None, *, stopping: threading.Event | None = None) -> JobView:
    """Do a job on a machine, as its worker does."""
    host = ctx.artifacts.root.parent.name
    claim = claim_job(ctx, str(job_id), owner=f"{host}#1", host=host)
    assert claim is not None
    execute(ctx, claim, stopping=stopping)
    return get_job(ctx, str(job_id))


def import_lines(ctx: Context) -> str:
    return str(queue_import(ctx, "lines", LINES, file="lines.jsonl", kind="text", val_fraction=0.2).job_id)


def finished(job: JobView) -> None:
    assert job.status is Status.FINISHED, job.error


def test_a_deletion_that_waited_for_the_store_leaves_the_same_rows_that_came_again_meanwhile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, a, b = machine("web"), machine("a"), machine("b")
    finished(work(a, import_lines(web)))
    folder = str(list_datasets(web)[0].versions[0].folder)
    assert web.artifacts.store is not None
    assert web.artifacts.outbox is not None
    with monkeypatch.context() as patch:
        patch.setattr(web.artifacts.store, "delete", Mock(side_effect=Unavailable("the store is down", remedy="")))
        delete_dataset(web, list_datasets(web)[0].id, person=LOCAL)
        wait_until(lambda: web.artifacts.outbox.problem, what="an attempt at the deletion")
        job_id = import_lines(b)
        finished(work(b, job_id))
        assert version_of_job(b, job_id).folder == folder
    wait_until(lambda: not web.artifacts.outbox.entries(), what="the end of the deletion")
    assert web.artifacts.store.list_folders("datasets") == [folder]
    delete_dataset(web, list_datasets(web)[0].id, person=LOCAL)
    wait_until(lambda: not web.artifacts.store.list_folders("datasets"), what="a deletion")


def test_a_deletion_waits_for_an_import_that_may_have_sent_the_same_rows(machine: Machine) -> None:
    """Between its sending and the end of its job a deletion took them from the store, and the new dataset was lost."""
    web, a = machine("web"), machine("a")
    finished(work(a, import_lines(web)))
    old = list_datasets(web)[0]
    folder = str(old.versions[0].folder)
    again = str(queue_import(web, "again", LINES, file="again.jsonl", kind="text", val_fraction=0.2).job_id)
    claim = claim_job(a, again, owner="a#1", host="a")
    assert claim is not None
    delete_dataset(web, old.id, person=LOCAL)
    assert web.artifacts.outbox is not None
    assert web.artifacts.store is not None
    wait_until(lambda: "no dataset is being imported" in web.artifacts.outbox.problem, what="the wait")
    execute(a, claim)
    finished(get_job(a, again))
    wait_until(lambda: not web.artifacts.outbox.entries(), what="the end of the deletion")
    assert version_of_job(web, again).folder == folder
    assert web.artifacts.store.list_folders("datasets") == [folder]


def test_tokens_in_the_store_go_with_their_dataset_from_a_machine_that_never_had_them(machine: Machine) -> None:
    web, a = machine("web"), machine("a")
    finished(work(a, import_lines(web)))
    dataset = list_datasets(web)[0]
    rows = {"its": str(dataset.versions[0].content_hash), "other": "f" * 64}
    assert a.artifacts.store is not None
    assert web.artifacts.store is not None
    for name, content in rows.items():
        manifest = Manifest(identity={"dataset": content}, dtype="uint16", is_complete=True)
        (a.artifacts.folder("tokens", name) / MANIFEST).write_text(json.dumps(manifest.as_dict()))
        a.artifacts.store.send(f"tokens/{name}")
    (a.artifacts.folder("tokens", "broken") / MANIFEST).write_text("no manifest")
    a.artifacts.store.send("tokens/broken")
    (a.artifacts.folder("tokens", "damaged") / MANIFEST).write_text("a manifest of which the store has no bytes")
    a.artifacts.store.send("tokens/damaged")
    pieces = a.artifacts.store.objects.sizes(f"tokens/damaged/{PIECES}", within_s=60)
    a.artifacts.store.objects.delete(list(pieces), within_s=60)
    delete_dataset(web, dataset.id, person=LOCAL)
    wait_until(lambda: not web.artifacts.outbox.entries(), what="the deletions")
    assert web.artifacts.store.list_folders("tokens") == ["tokens/broken", "tokens/damaged", "tokens/other"]
    assert web.artifacts.store.list_folders("datasets") == []


@pytest.mark.timeout(600)
def test_a_launch_and_a_probe_of_memory_read_the_first_rows_of_a_large_dataset_and_copy_it_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.infra.artifacts.SMALL_BYTES", 1_000)
    a, web, b = machine("a"), machine("web"), machine("b")
    assert b.artifacts.store is not None
    b.artifacts.store.stream_bytes = 1_000
    prepare_run(a, a, max_steps=40)
    version = list_datasets(web)[0].versions[0]
    assert a.artifacts.outbox is not None
    a.artifacts.outbox.finish(within_s=60, is_patient=True)
    shown = read_version_rows(web, version.folder, split="train", offset=7, limit=5)
    assert len(shown) == 5
    assert shown == read_version_rows(a, version.folder, split="train", offset=7, limit=5)
    assert preview_rows(web, version, split="no-such-split") == []
    probe = launch_probe(web, tiny_run("probe", max_steps=40), person=LOCAL)
    finished(work(b, probe.id))
    for ctx in (web, b):
        assert not (ctx.artifacts.root / str(version.folder) / "train.parquet").exists()
    assert not (b.artifacts.root / "jobs" / probe.id / "head").exists()


@pytest.mark.timeout(600)
def test_data_of_one_machine_trains_on_a_second_and_is_scored_and_exported_on_others(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    pages, a, b, c = machine("pages"), machine("a"), machine("b"), machine("c")
    job_id = import_lines(pages)
    finished(work(a, job_id))
    finished(
        work(
            b,
            train_tokenizer(
                pages, name="bytes", dataset="lines", config=TokenizerConfig(kind="byte"), person=LOCAL
            ).job_id,
        )
    )
    run = launch_run(pages, tiny_run("first", max_steps=8, checkpoint_every=2, keep_last=1), person=LOCAL)
    finished(work(b, run.job_id))
    checkpoints = [each for each in list_checkpoints(pages) if each.run_id == run.id]
    newest = max(checkpoints, key=lambda each: each.step or 0)
    evaluation = Scenario(pages).evaluation(newest.id, "lines", split="val")
    finished(work(a, evaluation.job_id))
    export = export_checkpoint(pages, newest.id, format="hf", person=LOCAL)
    finished(work(c, export.id))
    shown = get_export(pages, export.id)
    assert shown.bytes > 10_000
    assert "config.json" in shown.files
    artifacts = pages.artifacts
    assert not (artifacts.root / str(shown.folder)).exists()  # shown without being fetched
    assert export_file(pages, export.id, person=LOCAL).stat().st_size > 10_000
    assert len(preview_rows(pages, version_of_job(pages, job_id), limit=5)) == 5
    # pruned checkpoints are gone from the store, like those that a page deletes
    assert b.artifacts.store is not None
    wait_until(lambda: not b.artifacts.outbox or not b.artifacts.outbox.entries(), what="the deletions")
    assert b.artifacts.store.list_folders(f"runs/{run.id}/checkpoints") == sorted(
        str(each.folder) for each in checkpoints if each.folder
    )
    # an old copy of a pruned one, on a machine that leads a later attempt, is not sent again
    pruned = f"{str(newest.folder)[:-1]}2"
    assert b.artifacts.store is not None
    shutil.copytree(b.artifacts.root / str(newest.folder), b.artifacts.root / pruned)
    payload = Mock(spec=TrainPayload, run_folder=f"runs/{run.id}")
    exchange = FolderExchange(b, Mock(job_id=run.job_id, payload=payload), threading.Event())
    exchange._renew = Mock()  # type: ignore[method-assign]
    exchange.send_checkpoints()
    assert pruned not in checkpoints_in_store(b)
    assert str(newest.folder) in checkpoints_in_store(b)
    delete_checkpoint(pages, checkpoints[0].id, person=LOCAL)
    gone = str(checkpoints[0].folder)
    wait_until(lambda: gone not in b.artifacts.store.list_folders(f"runs/{run.id}/checkpoints"), what="the deletion")
    assert SECRET not in capfd.readouterr().err


def prepare_run(pages: Context, worker: Context, **values: object) -> str:
    """Import data and a tokenizer on a machine; return the job of a run on them."""
    finished(work(worker, import_lines(pages)))
    finished(
        work(
            worker,
            train_tokenizer(
                pages, name="bytes", dataset="lines", config=TokenizerConfig(kind="byte"), person=LOCAL
            ).job_id,
        )
    )
    return str(launch_run(pages, tiny_run("run", **values), person=LOCAL).job_id)


def message_of(ctx: Context, job_id: str) -> str:
    progress = get_job(ctx, job_id).progress
    return progress.message if progress is not None else ""


def checkpoints_in_store(ctx: Context) -> list[str]:
    assert ctx.artifacts.store is not None
    return [folder for folder in ctx.artifacts.store.list_folders("runs") if "/checkpoints/" in folder]


def work_beside(ctx: Context, job_id: str, stopping: threading.Event | None = None) -> threading.Thread:
    """Do a job on a machine in a thread, as its worker does."""
    thread = threading.Thread(target=work, args=(ctx, job_id), kwargs={"stopping": stopping}, daemon=True)
    thread.start()
    return thread


@pytest.mark.timeout(600)
def test_a_run_whose_machine_is_lost_continues_on_another_from_the_newest_checkpoint_in_the_store(
    machine: Machine,
) -> None:
    a, b = machine("a"), machine("b")
    job_id = prepare_run(a, a, max_steps=4000, checkpoint_every=100, eval_every=4000, keep_last=2)
    stopping = threading.Event()
    first = work_beside(a, job_id, stopping)
    wait_until(lambda: len(checkpoints_in_store(b)) >= 2, timeout_s=120, what="two checkpoints in the store")
    stopping.set()  # the worker's machine goes away
    first.join(300)
    assert get_job(a, job_id).status is Status.QUEUED
    assert a.artifacts.outbox is not None
    wait_until(lambda: not a.artifacts.outbox.entries(), what="the uploads")
    uploaded = checkpoints_in_store(b)
    shutil.rmtree(a.artifacts.root)
    second = work_beside(b, job_id)
    wait_until(lambda: len(set(checkpoints_in_store(a)) - set(uploaded)) >= 1, timeout_s=120, what="a newer checkpoint")
    request_stop(b, job_id)
    second.join(300)
    (events,) = (b.artifacts.root / "jobs" / job_id).glob("attempt-*/events.jsonl")
    (resumed,) = (line for line in map(json.loads, events.read_text().splitlines()) if line["type"] == "resumed")
    assert resumed["folder"] in uploaded


@pytest.mark.timeout(600)
def test_a_store_that_is_down_stops_no_training_and_has_everything_afterwards(tmp_path: Path, machine: Machine) -> None:
    a, b = machine("a"), machine("b")
    assert a.artifacts.store is not None
    job_id = prepare_run(a, a, max_steps=400, checkpoint_every=100, keep_last=4)
    objects, broken = a.artifacts.store.objects, threading.Event()
    write = objects.write

    def write_or_fail(key: str, data: bytes, *, within_s: float, is_new: bool = False) -> bool:
        if broken.is_set():
            raise Unavailable("The store is down.")
        return write(key, data, within_s=within_s, is_new=is_new)

    objects.write = write_or_fail  # type: ignore[method-assign]
    broken.set()
    thread = work_beside(a, job_id)
    wait_until(lambda: "The store is down" in message_of(a, job_id), timeout_s=120, what="the end of training")
    job = get_job(a, job_id)
    assert job.status is Status.RUNNING
    assert checkpoints_in_store(b) == []
    broken.clear()
    thread.join(300)
    finished(get_job(a, job_id))
    assert len(checkpoints_in_store(b)) == 4


@pytest.mark.timeout(300)
def test_a_job_that_waits_for_its_data_can_be_stopped_and_says_what_it_waits_for(machine: Machine) -> None:
    a, b = machine("a"), machine("b")
    job_id = import_lines(a)
    assert a.artifacts.outbox is not None
    wait_until(lambda: not a.artifacts.outbox.entries(), what="the upload")
    assert b.artifacts.store is not None
    (upload,) = b.artifacts.store.list_folders("uploads")
    b.artifacts.store.delete(upload)
    thread = work_beside(b, job_id)
    wait_until(lambda: "Fetching an uploaded file" in message_of(a, job_id), timeout_s=30, what="the reason")
    request_stop(a, job_id)
    thread.join(120)
    assert get_job(a, job_id).status is Status.CANCELLED


def test_a_job_is_not_given_damaged_data(machine: Machine) -> None:
    a, b = machine("a"), machine("b")
    job_id = import_lines(a)
    assert a.artifacts.outbox is not None
    wait_until(lambda: not a.artifacts.outbox.entries(), what="the upload")
    assert b.artifacts.store is not None
    objects = b.artifacts.store.objects
    (piece,) = (key for key in objects.sizes("uploads", within_s=20) if "pieces" in key)
    objects.write(piece, objects.read(piece, within_s=20).replace(b"steam", b"seams"), within_s=20)
    job = work(b, job_id)
    assert job.status is Status.FAILED
    assert "lines.jsonl" in job.error.cause
    assert "not those of its manifest" in job.error.cause


def test_a_second_start_on_a_machine_reads_nothing_from_the_store_and_no_child_has_its_keys(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machine("a"), machine("b")
    for name in ("KEY", "SECRET"):
        monkeypatch.setenv(f"ROUNDHOUSE_ARTIFACTS_{name}", SECRET)
    finished(work(a, import_lines(a)))
    trainings = [
        train_tokenizer(
            a, name=f"bytes {number}", dataset="lines", config=TokenizerConfig(kind="byte"), person=LOCAL
        ).job_id
        for number in range(2)
    ]
    assert b.artifacts.store is not None
    finished(work(b, trainings[0]))
    read_so_far = b.artifacts.store.objects.bytes_read
    assert read_so_far > 0
    finished(work(b, trainings[1]))
    assert b.artifacts.store.objects.bytes_read == read_so_far
    for kind in JobKind:
        assert not [value for value in child_environment(kind).values() if SECRET in value]
    assert not [file for file in b.artifacts.root.rglob("*.json*") if SECRET in file.read_text(errors="replace")]


def losses_of(ctx: Context, job_id: str) -> dict[int, float]:
    """Return the losses of all attempts on a machine, by step."""
    files = sorted((ctx.artifacts.root / "jobs" / job_id).glob("attempt-*/events.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {line["step"]: line["values"]["train_loss"] for line in lines if "train_loss" in line.get("values", {})}


def lines_of(ctx: Context, job_id: str) -> list[str]:
    files = (ctx.artifacts.root / "jobs" / job_id).glob("attempt-*/events.jsonl")
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [event["text"] for event in events if event["type"] == "log"]


@pytest.mark.timeout(600)
def test_a_run_reads_tokens_that_stay_in_the_store_and_has_the_curve_of_one_that_copied_its_dataset(
    machine: Machine,
) -> None:
    a, b, c = machine("a"), machine("b"), machine("c")
    for ctx in (b, c):
        assert ctx.artifacts.store is not None
        ctx.artifacts.store.stream_bytes = 1_000
    first = prepare_run(a, a, max_steps=40, checkpoint_every=10)
    dataset = str(list_datasets(a)[0].versions[0].folder)
    assert a.artifacts.outbox is not None
    a.artifacts.outbox.finish(within_s=60, is_patient=True)
    finished(work(b, first))  # the first run to read it copies the dataset, and sends the tokens that it makes
    assert (b.artifacts.root / dataset / "train.parquet").exists()
    assert b.artifacts.outbox is not None
    b.artifacts.outbox.finish(within_s=60, is_patient=True)
    assert len(b.artifacts.store.list_folders("tokens")) == 2
    second = str(launch_run(a, tiny_run("run 2", max_steps=40, checkpoint_every=10), person=LOCAL).job_id)
    stopping = threading.Event()
    thread = work_beside(c, second, stopping)
    wait_until(lambda: (c.artifacts.root / "jobs" / second).exists() and len(losses_of(c, second)) > 12, timeout_s=120)
    stopping.set()
    thread.join(300)
    assert not thread.is_alive()
    if get_job(c, second).status is Status.QUEUED:  # put back in the middle, and resumed
        finished(work(c, second))
    assert any("stay in the store" in line for line in lines_of(c, second))
    assert not (c.artifacts.root / dataset / "train.parquet").exists()
    assert losses_of(c, second) == losses_of(b, first)
    assert len(losses_of(c, second)) == 40
    assert not list((c.artifacts.root / "jobs" / second).glob("streams-*"))
