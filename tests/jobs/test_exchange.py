"""Two machines with homes of their own, one database and one store: what one makes the other works on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.bootstrap import build_context
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.jobs.states import Status
from backend.services.checkpoints.checkpoints import delete_checkpoint, list_checkpoints
from backend.services.checkpoints.exports import export_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.data.imports import import_dataset, version_of_job
from backend.services.data.preview import preview_rows
from backend.services.data.uploads import save_upload
from backend.services.evaluation.evaluations import launch_evaluation
from backend.services.jobs.claims import claim_job
from backend.services.jobs.exports import export_file
from backend.services.jobs.jobs import JobView, get_job
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training.runs import launch_run
from jobs.runner import execute
from tests.support.installation import wait_until
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings
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
def machine(store: Store, home: Path, tmp_path: Path) -> Iterator[Machine]:
    """Makes a machine's context: its own home, the team's database and store."""
    made: list[Context] = []

    def make(name: str) -> Context:
        settings = make_settings(
            tmp_path / name,
            database_url=f"sqlite:///{home / 'models.db'}",
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


def work(ctx: Context, job_id: str | None, *, stopping: threading.Event | None = None) -> JobView:
    """Do a job on a machine, as its worker does."""
    host = ctx.artifacts.root.parent.name
    claim = claim_job(ctx, str(job_id), owner=f"{host}#1", host=host)
    assert claim is not None
    execute(ctx, claim, stopping=stopping)
    return get_job(ctx, str(job_id))


def import_lines(ctx: Context) -> str:
    upload = save_upload(ctx, io.BytesIO(LINES.encode()), name="lines.jsonl", person=LOCAL)
    return str(import_dataset(ctx, name="lines", kind="text", upload=upload, person=LOCAL, val_fraction=0.2).job_id)


def finished(job: JobView) -> None:
    assert job.status is Status.FINISHED, job.error


@pytest.mark.timeout(600)
def test_data_of_one_machine_trains_on_a_second_and_is_scored_and_exported_on_others(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    pages, a, b, c = machine("pages"), machine("a"), machine("b"), machine("c")
    job_id = import_lines(pages)
    finished(work(a, job_id))
    finished(work(b, train_tokenizer(pages, name="bytes", dataset="lines", kind="byte", person=LOCAL).job_id))
    run = launch_run(pages, tiny_run("first", max_steps=8, checkpoint_every=2, keep_last=1), person=LOCAL)
    finished(work(b, run.job_id))
    checkpoints = [each for each in list_checkpoints(pages) if each.run_id == run.id]
    newest = max(checkpoints, key=lambda each: each.step or 0)
    evaluation = launch_evaluation(
        pages, checkpoint=newest.id, benchmark="lines", config=EvaluationConfig(split="val"), person=LOCAL
    )
    finished(work(a, evaluation.job_id))
    export = export_checkpoint(pages, newest.id, format="hf", person=LOCAL)
    finished(work(c, export.id))
    assert export_file(pages, export.id, person=LOCAL).stat().st_size > 10_000
    assert len(preview_rows(pages, version_of_job(pages, job_id), split="train", offset=0, limit=5)) == 5
    # pruned checkpoints are gone from the store, like those that a page deletes
    assert b.artifacts.store is not None
    wait_until(lambda: not b.artifacts.outbox or not b.artifacts.outbox.entries(), what="the deletions")
    assert b.artifacts.store.list_folders(f"runs/{run.id}/checkpoints") == sorted(
        str(each.folder) for each in checkpoints if each.folder
    )
    delete_checkpoint(pages, checkpoints[0].id, person=LOCAL)
    gone = str(checkpoints[0].folder)
    wait_until(lambda: gone not in b.artifacts.store.list_folders(f"runs/{run.id}/checkpoints"), what="the deletion")
    assert SECRET not in capfd.readouterr().err
