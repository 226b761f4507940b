"""Checkpoints: bases that are brought in, what runs write, who came from whom, what may be deleted."""

from __future__ import annotations

import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from backend.db.tables import Campaign, Checkpoint, Contestant, Deployment, Endpoint, Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.events import event_of
from backend.domain.jobs.states import JobKind, Status
from backend.domain.training.config import RunConfig
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services import job_events as outcomes
from backend.services.checkpoints.bases import add_base, list_base_offers
from backend.services.checkpoints.checkpoints import (
    CheckpointView,
    delete_checkpoint,
    get_checkpoint,
    list_checkpoints,
    list_deletion_losses,
    list_files,
    list_lineage,
    rename_checkpoint,
    resolve_checkpoint,
)
from backend.services.checkpoints.exports import export_checkpoint
from backend.services.checkpoints.files import zip_checkpoint
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.claims import Claim, end_job
from backend.services.jobs.exports import copy_export
from backend.services.people.accounts import add_user
from backend.services.training.runs import resume_run
from backend.services.training.views import get_run
from tests.support.job_work import do_job
from tests.support.jobs import add_stored_job, take_job


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network in Hugging Face form, outside any installation."""
    from jobs.modeling.build import build_network
    from jobs.modeling.checkpoints import save_checkpoint
    from jobs.modeling.tokenizers import byte_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    shape = ArchitectureConfig(
        num_layers=1, width=16, num_heads=2, num_kv_heads=1, context=32, vocab_size=262, feed_forward=32
    )
    save_checkpoint(folder, model=build_network(shape, seed=1), tokenizer=byte_tokenizer(context=32), meta={})
    return folder


def added(ctx: Context, network: Path, name: str = "tiny") -> CheckpointView:
    base = add_base(ctx, name=name, source=str(network), person=LOCAL)
    job = do_job(ctx, base.job_id)
    assert job.status is Status.FINISHED, job.error
    return get_checkpoint(ctx, base.id)


def a_run(ctx: Context, *, name: str = "my run", base_id: str | None = None) -> tuple[str, Claim[Any]]:
    """Start a run as far as its claim, without training."""
    with ctx.db.write() as session:
        payload = {
            "run_id": "r",
            "run_folder": "runs/r",
            "dataset_kind": "chat",
            "config": {"objective": "sft", "dataset": "d", "base": "b"},
        }
        job = add_stored_job(session, ctx, JobKind.TRAIN, title=name, payload=payload)
        run = Run(name=name, objective="sft", config={}, job_id=job.id, base_id=base_id)
        session.add(run)
        session.flush()
        run_id, job_id = run.id, job.id
    return run_id, take_job(ctx, job_id)


def say(ctx: Context, claim: Claim[Any], **event: Any) -> None:
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [event_of(event)])


def written(ctx: Context, claim: Claim[Any], run_id: str, step: int, **more: Any) -> str:
    """Let a run publish a checkpoint with one small file. Returns its folder."""
    folder = ctx.artifacts.folder("runs", run_id) / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    relative = ctx.artifacts.relative(folder)
    say(
        ctx,
        claim,
        type="checkpoint",
        step=step,
        folder=relative,
        metrics={"val_loss": 2.5},
        final=False,
        bytes=2,
        adapter=False,
        **more,
    )
    return relative


def test_base_from_a_folder_is_copied_and_described(ctx: Context, network: Path) -> None:
    base = added(ctx, network)
    expected = 262 * 16 + (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32) + 3 * 16
    assert (base.family, base.parameters, base.origin, base.is_ready) == ("llama", expected, "added", True)
    assert base.facts.context == 32
    names = {file.name for file in list_files(ctx, base.id)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "roundhouse.json"} <= names
    with zipfile.ZipFile(zip_checkpoint(ctx, base.id, person=LOCAL)) as archive:
        assert names == set(archive.namelist())
        assert json.loads(archive.read("config.json"))["model_type"] == "llama"
    with pytest.raises(NotAllowed):
        zip_checkpoint(ctx, base.id, person=Person("x", "r", "rater"))


def test_a_double_click_adds_one_base(ctx: Context, network: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(
            lambda _: add_base(ctx, name="twice", source=str(network), person=LOCAL, idempotency_key="click").id,
            range(4),
        )
    assert len(set(made)) == 1


def test_a_long_list_costs_no_more_queries_than_a_short_one(ctx: Context) -> None:
    def count(num_steps: int) -> int:
        run_id, claim = a_run(ctx, name=f"run of {num_steps}")
        for step in range(1, num_steps + 1):
            written(ctx, claim, run_id, step)
        calls: list[str] = []
        event.listen(ctx.db.engine, "before_cursor_execute", lambda *arguments: calls.append(arguments[2]))
        assert {c.run for c in list_checkpoints(ctx, run_id=run_id)} == {f"run of {num_steps}"}
        return len(calls)

    assert count(12) == count(2)


def test_a_run_that_was_resumed_beyond_its_end_has_one_final_checkpoint(ctx: Context) -> None:
    run_id, claim = a_run(ctx)
    for step in (10, 20):
        folder = written(ctx, claim, run_id, step)
        say(ctx, claim, type="checkpoint", step=step, folder=folder, metrics={}, final=True, bytes=2, adapter=False)
    assert {c.step: c.is_final for c in list_checkpoints(ctx)} == {10: False, 20: True}


def test_a_download_holds_the_current_files_even_if_the_step_was_published_again(ctx: Context) -> None:
    run_id, claim = a_run(ctx)
    folder = ctx.artifacts.path(written(ctx, claim, run_id, 10))
    row = list_checkpoints(ctx)[0]
    first = zip_checkpoint(ctx, row.id, person=LOCAL)
    assert zip_checkpoint(ctx, row.id, person=LOCAL) == first
    shutil.rmtree(folder)
    written(ctx, claim, run_id, 10)
    (folder / "model.safetensors").write_bytes(b"new")
    with zipfile.ZipFile(zip_checkpoint(ctx, row.id, person=LOCAL)) as archive:
        assert archive.read("model.safetensors") == b"new"


def test_pickle_is_refused_at_once_with_a_reason(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidInput, match="a format that can run code"):
        add_base(ctx, name="tiny", source=str(tmp_path), person=LOCAL)
    assert list_checkpoints(ctx) == []


def test_a_base_that_fails_in_its_job_leaves_the_name_free(ctx: Context, network: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(network, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32, "head_dim": 16}))
    base = add_base(ctx, name="tiny", source=str(folder), person=LOCAL)
    assert do_job(ctx, base.job_id).status is Status.FAILED
    with pytest.raises(Conflict, match="not ready"):
        resolve_checkpoint(ctx, "tiny")
    assert added(ctx, network).name == "tiny"
    with pytest.raises(Conflict, match="already a checkpoint"):
        add_base(ctx, name="tiny", source=str(network), person=LOCAL)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("", InvalidInput),
        ("/no/such", NotFound),
        ("./x.gguf", NotFound),
        ("not an id!", NotFound),
        ("~nobody-of-that-name/x", NotFound),
        ("/a\0b", NotFound),
        ("/" + 300 * "x", NotFound),
    ],
    ids=["nothing", "no folder", "no file", "no id", "home of nobody", "a NUL", "too long"],
)
def test_an_invalid_source_is_refused_at_once(ctx: Context, source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        add_base(ctx, name="b", source=source, person=LOCAL)
    assert list_checkpoints(ctx) == []


def test_an_account_adds_only_bases_under_model_path(ctx: Context, network: Path) -> None:
    engineer = add_user(ctx, "engineer", "a long password", person=LOCAL)
    with pytest.raises(NotAllowed, match="outside the folder"):
        add_base(ctx, name="b", source=str(network), person=engineer)
    here = replace(ctx, model_path=network.parent)
    (offer,) = list_base_offers(here)
    assert (offer.name, offer.kind) == ("tiny", "folder")
    assert add_base(here, name="b", source=str(offer.path), person=engineer).status is Status.QUEUED


def test_run_checkpoints_carry_lineage_and_a_repeated_step_is_one_row(ctx: Context, network: Path) -> None:
    base = added(ctx, network)
    run_id, claim = a_run(ctx, base_id=base.id)
    written(ctx, claim, run_id, 10)
    written(ctx, claim, run_id, 20)
    written(ctx, claim, run_id, 20, parameters=7)
    checkpoints = list_checkpoints(ctx, run_id=run_id)
    assert sorted(c.name for c in checkpoints) == ["my run · step 10", "my run · step 20"]
    newest = resolve_checkpoint(ctx, "my run")
    assert (newest.step, newest.parameters, newest.metrics) == (20, 7, {"val_loss": 2.5})
    assert [c.name for c in list_lineage(ctx, newest.id)] == ["tiny", "my run · step 20"]
    assert resolve_checkpoint(ctx, run_id).id == newest.id


def test_pruned_checkpoint_leaves_the_list_but_not_the_history(ctx: Context) -> None:
    run_id, claim = a_run(ctx)
    folder = written(ctx, claim, run_id, 10)
    written(ctx, claim, run_id, 20)
    (old,) = [c for c in list_checkpoints(ctx, run_id=run_id) if c.step == 10]
    say(ctx, claim, type="checkpoint_removed", step=10, folder=folder)
    assert [c.step for c in list_checkpoints(ctx, run_id=run_id)] == [20]
    assert get_checkpoint(ctx, old.id).deleted_at is not None
    with pytest.raises(Conflict, match="were deleted"):
        resolve_checkpoint(ctx, old.id)


def test_two_runs_of_one_name_have_checkpoints_of_different_names(ctx: Context) -> None:
    for _ in range(2):
        run_id, claim = a_run(ctx, name="twin")
        written(ctx, claim, run_id, 5)
    assert sorted(c.name for c in list_checkpoints(ctx)) == ["twin · step 5", "twin · step 5 (2)"]


def test_base_of_an_unfinished_run_is_not_deleted(ctx: Context, network: Path) -> None:
    base = added(ctx, network)
    run_id, claim = a_run(ctx, base_id=base.id)
    written(ctx, claim, run_id, 10)
    with pytest.raises(Conflict, match="run “my run”, which starts from it"):
        delete_checkpoint(ctx, base.id, person=LOCAL)
    own = resolve_checkpoint(ctx, "my run")
    with pytest.raises(Conflict, match="resumes from it"):
        delete_checkpoint(ctx, own.id, person=LOCAL)
    with ctx.db.write() as session:
        end_job(session, ctx, claim, Status.FINISHED)
    prepared = ctx.artifacts.folder("prepared", str(base.folder))
    delete_checkpoint(ctx, base.id, person=LOCAL)
    assert not ctx.artifacts.path(str(base.folder)).exists()
    assert not prepared.exists(), "weights that replicas prepared of it"
    assert [c.id for c in list_lineage(ctx, own.id)] == [base.id, own.id]
    assert added(ctx, network, "tiny").name == "tiny", "the name is free again"


def test_what_ended_runs_lose_with_a_checkpoint_is_said_before_and_they_are_not_queued_in_vain(
    ctx: Context, network: Path
) -> None:
    """A finished run was resumed without its base, and failed as "There is no tokenizer folder"."""
    base = added(ctx, network)
    run_id, claim = a_run(ctx, base_id=base.id)
    for step in (10, 20):
        written(ctx, claim, run_id, step)
    with ctx.db.write() as session:
        end_job(session, ctx, claim, Status.FINISHED)
        session.get_one(Run, run_id).config = RunConfig(objective="sft", dataset="d", base="b")
    assert list_deletion_losses(ctx, base.id) == ["Run “my run” starts from it, and can't be resumed."]
    first, last = sorted(list_checkpoints(ctx, run_id=run_id), key=lambda one: one.step or 0)
    assert list_deletion_losses(ctx, first.id) == []
    assert list_deletion_losses(ctx, last.id) == ["Its own run can be resumed from step 10 only."]
    delete_checkpoint(ctx, last.id, person=LOCAL)
    assert list_deletion_losses(ctx, first.id) == ["Its own run has no other checkpoint, and can't be resumed."]
    delete_checkpoint(ctx, base.id, person=LOCAL)
    with pytest.raises(Conflict, match=r"files were deleted: “tiny \(deleted\)”"):
        resume_run(ctx, run_id, person=LOCAL, max_steps=10_000)
    assert get_run(ctx, run_id).status is Status.FINISHED
    again_named = added(ctx, network)
    delete_checkpoint(ctx, again_named.id, person=LOCAL)
    assert get_checkpoint(ctx, again_named.id).name == "tiny (deleted) (2)"


def test_deletion_of_a_used_checkpoint_names_its_users(ctx: Context, network: Path) -> None:
    base = added(ctx, network)
    with ctx.db.write() as session:
        endpoint, campaign = Endpoint(name="chat"), Campaign(name="spring")
        session.add_all([endpoint, campaign])
        session.flush()
        session.add(Deployment(endpoint_id=endpoint.id, checkpoint_id=base.id))
        session.add(Contestant(campaign_id=campaign.id, checkpoint_id=base.id))
        session.add(Checkpoint(name="child", origin="run", parent_id=base.id, is_adapter=True, folder="x"))
    with pytest.raises(Conflict) as refused:
        delete_checkpoint(ctx, base.id, person=LOCAL)
    for words in ("endpoint “chat”", "open campaign “spring”", "adapter “child”"):
        assert words in refused.value.message


def test_rename_refuses_a_taken_name(ctx: Context, network: Path) -> None:
    base = added(ctx, network)
    other = added(ctx, network, "other")
    with pytest.raises(Conflict, match="already a checkpoint"):
        rename_checkpoint(ctx, other.id, "tiny", person=LOCAL)
    rename_checkpoint(ctx, base.id, "renamed", person=LOCAL)
    with pytest.raises(NotFound, match="renamed"):
        resolve_checkpoint(ctx, "renamd")


def test_export_lands_in_the_folder_that_was_named(ctx: Context, network: Path, tmp_path: Path) -> None:
    added(ctx, network)
    job = export_checkpoint(ctx, "tiny", format="hf", person=LOCAL)
    done = do_job(ctx, job.id)
    target = tmp_path / "out"
    assert "model.safetensors" in copy_export(ctx, done, target)
    assert (target / "model.safetensors").read_bytes() == (network / "model.safetensors").read_bytes()
    with pytest.raises(Conflict, match="not empty"):
        copy_export(ctx, done, target)
    with pytest.raises(InvalidInput, match="export format"):
        export_checkpoint(ctx, "tiny", format="onnx", person=LOCAL)
