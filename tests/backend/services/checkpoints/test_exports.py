"""Exports through the service: what is asked, what is listed, what is fetched, deleted and refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import yaml
from sqlalchemy import select

from backend.db.tables import Checkpoint, Job
from backend.domain.jobs.states import Status
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services.checkpoints.bases import add_base
from backend.services.checkpoints.checkpoints import get_checkpoint, resolve_checkpoint
from backend.services.checkpoints.exports import export_checkpoint, list_exports, why_no_gguf
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.exports import delete_export, export_file
from backend.services.lineage import lineage_of_checkpoint
from jobs.modeling.tokenizers import train_bpe
from tests.support.data.hub_server import run_hub
from tests.support.job_work import do_job
from tests.support.networks.base_folders import CARD, SHAPE, save_base


@pytest.fixture
def base(ctx: Context, tmp_path: Path) -> str:
    added = add_base(ctx, name="tiny", source=str(save_base(tmp_path / "tiny")), person=LOCAL)
    do_job(ctx, added.job_id)
    return added.id


def test_a_gguf_file_is_exported_listed_downloaded_and_deleted(ctx: Context, base: str) -> None:
    job = export_checkpoint(ctx, base, format="gguf", numbers="q8_0", person=LOCAL)
    (waiting,) = list_exports(ctx, base)
    assert (waiting.job.status, waiting.folder, waiting.files) == (Status.QUEUED, None, ())
    with pytest.raises(Conflict, match="still being written"):
        delete_export(ctx, job.id, person=LOCAL)
    do_job(ctx, job.id)
    (export,) = list_exports(ctx, base)
    assert export.check is not None
    assert export.bits_per_weight is not None
    assert (export.format, export.numbers, export.files) == ("gguf", "q8_0", ("README.md", "tiny-q8_0.gguf"))
    assert export_file(ctx, job.id, person=LOCAL).read_bytes()[:4] == b"GGUF"
    delete_export(ctx, job.id, person=LOCAL)
    assert list_exports(ctx, base)[0].folder is None
    with pytest.raises(Conflict, match="are missing"):
        export_file(ctx, job.id, person=LOCAL)


def test_a_quantised_file_that_is_added_as_a_base_leads_back_to_what_it_was_exported_from(
    ctx: Context, tmp_path: Path
) -> None:
    """The lineage of its endpoint ended at the file."""
    folder = save_base(tmp_path / "tiny", shape=SHAPE.model_copy(update={"vocab_size": 280}))
    train_bpe(["the mill by the river", "a letter for the miller"] * 9, vocab_size=280).save_pretrained(folder)
    first = add_base(ctx, name="tiny", source=str(folder), person=LOCAL)
    do_job(ctx, first.job_id)
    base = first.id
    job = export_checkpoint(ctx, base, format="gguf", numbers="q8_0", person=LOCAL)
    do_job(ctx, job.id)
    file = export_file(ctx, job.id, person=LOCAL)
    added = add_base(ctx, name="tiny-q8", source=str(file), person=LOCAL)
    do_job(ctx, added.job_id)
    lineage = lineage_of_checkpoint(ctx, "tiny-q8")
    assert (f"checkpoint:{added.id}", f"checkpoint:{base}", "exported from") in {
        (edge.made, edge.source, edge.label) for edge in lineage.edges
    }
    assert get_checkpoint(ctx, added.id).parent_id == base
    assert get_checkpoint(ctx, base).parent_id is None


def test_a_file_whose_tokenizer_the_library_panics_at_is_refused_with_the_cure(ctx: Context, base: str) -> None:
    """A tokenizer of bytes without merges. The job said: "The process ended with status 1 without a result"."""
    job = export_checkpoint(ctx, base, format="gguf", numbers="q8_0", person=LOCAL)
    do_job(ctx, job.id)
    added = add_base(ctx, name="again", source=str(export_file(ctx, job.id, person=LOCAL)), person=LOCAL)
    ended = do_job(ctx, added.job_id)
    assert ended.status is Status.FAILED
    assert "can't be converted" in (ended.error.cause or "")
    assert "original checkpoint" in str(ended.error.remedy)


def test_a_folder_is_downloaded_as_a_zip_file_with_its_own_card_or_ours(ctx: Context, base: str) -> None:
    for format, card in (("hf", CARD), ("gguf", None)):
        job = export_checkpoint(ctx, base, format=format, person=LOCAL)
        do_job(ctx, job.id)
        written = (ctx.artifacts.path(str(list_exports(ctx, base)[0].folder)) / "README.md").read_text()
        assert card in (None, written)
    assert yaml.safe_load(written.split("---")[1]) == {"library_name": "gguf"}
    assert "## Safety\n\nNot measured.\n\n## File\n" in written, "silence looks like safety"
    assert "# tiny" in written
    assert "Licence: mill" in written
    assert str(ctx.artifacts.root.parent) not in written
    job = export_checkpoint(ctx, base, format="merged", person=LOCAL)
    do_job(ctx, job.id)
    with zipfile.ZipFile(export_file(ctx, job.id, person=LOCAL)) as archive:
        assert {"config.json", "model.safetensors", "README.md"} <= set(archive.namelist())


def test_a_push_is_stored_with_its_address_and_without_the_key(
    ctx: Context, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        job = export_checkpoint(ctx, base, format="hf", push="me/tiny", private=False, person=LOCAL)
        do_job(ctx, job.id)
        (export,) = list_exports(ctx, base)
        assert (export.push, export.pushed and export.pushed.url, hub.created) == (
            "me/tiny",
            f"{hub.url}/me/tiny",
            {"me/tiny": False},
        )
    with ctx.db.read() as session:
        row = session.scalars(select(Job).where(Job.id == job.id)).one()
        assert "hf_secret" not in str([row.payload, row.result, row.error])
    assert not any(b"hf_secret" in path.read_bytes() for path in ctx.artifacts.root.rglob("*") if path.is_file())


def test_a_tokenizer_that_gguf_can_not_hold_is_refused_before_the_queue(ctx: Context, base: str) -> None:
    """The job failed after 20 seconds with what its tokenizer's file says."""
    assert why_no_gguf(ctx, resolve_checkpoint(ctx, base)) is None
    other = add_base(ctx, name="other", source=str(ctx.artifacts.path(f"bases/{base}")), person=LOCAL)
    do_job(ctx, other.job_id)
    file = ctx.artifacts.path(f"bases/{other.id}") / "tokenizer.json"
    file.chmod(0o644)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pre_tokenizer": None}))
    with pytest.raises(InvalidInput, match="SentencePiece BPE, and only byte-level BPE") as refused:
        export_checkpoint(ctx, other.id, format="gguf", person=LOCAL)
    assert "folder" in refused.value.remedy


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"format": "onnx"}, "format"),
        ({"format": "gguf", "numbers": "q2"}, "numbers"),
        ({"format": "hf", "push": "no slash"}, "push"),
        ({"format": "hf", "push": "me/../x"}, "push"),
        ({"format": "gguf"}, "format"),
    ],
)
def test_an_impossible_export_is_refused_before_the_queue(
    ctx: Context, base: str, options: dict[str, str], field: str
) -> None:
    with ctx.db.write() as session:
        session.scalars(select(Checkpoint)).one().family = "bloom"
    with pytest.raises(InvalidInput) as error:
        export_checkpoint(ctx, base, person=LOCAL, **options)  # type: ignore[arg-type]
    assert (error.value.field, bool(error.value.remedy), list_exports(ctx, base)) == (field, True, [])


def test_raters_export_nothing(ctx: Context, base: str) -> None:
    rater = Person(id=None, name="r", role="rater")
    with pytest.raises(NotAllowed):
        export_checkpoint(ctx, base, format="hf", person=rater)
