"""Exports of dataset versions: requested, written by their job, listed, deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backend.domain.jobs.states import Status
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context
from backend.services.data.exports import export_version, list_version_exports
from backend.services.jobs.exports import copy_export, delete_export, export_file, get_export
from tests.support.data.dataset_world import RATER, imported
from tests.support.job_work import do_job

ROWS = [{"instruction": f"Say {n}", "output": "yes"} for n in range(30)]


def test_an_export_is_written_listed_copied_and_deleted(ctx: Context, tmp_path: Path) -> None:
    version = imported(ctx, "sayings", ROWS)
    queued = export_version(ctx, "sayings", format="jsonl", person=LOCAL)
    (waiting,) = list_version_exports(ctx, version.id)
    assert (waiting.job.status, waiting.folder, waiting.format) == (Status.QUEUED, None, "jsonl")
    with pytest.raises(Conflict, match="still being written"):
        delete_export(ctx, queued.id, person=LOCAL)
    do_job(ctx, queued.id)
    (done,) = list_version_exports(ctx, version.id)
    assert done.files == ("README.md", "train.jsonl", "validation.jsonl")
    front = yaml.safe_load((ctx.artifacts.path(str(done.folder)) / "README.md").read_text().split("---\n")[1])
    assert [file["path"] for file in front["configs"][0]["data_files"]] == ["train.jsonl", "validation.jsonl"]
    assert export_file(ctx, queued.id, person=LOCAL).suffix == ".zip"
    copy_export(ctx, get_export(ctx, queued.id).job, tmp_path / "out")
    assert len((tmp_path / "out/train.jsonl").read_text().splitlines()) == version.train_rows
    again = export_version(ctx, version.id, format="datasets", person=LOCAL)
    do_job(ctx, again.id)
    delete_export(ctx, again.id, person=LOCAL)
    assert [export.folder for export in list_version_exports(ctx, version.id)] == [None, None]


def test_an_impossible_export_is_refused_at_once(ctx: Context) -> None:
    imported(ctx, "sayings", ROWS)
    with pytest.raises(InvalidInput, match="no export format 'xlsx'"):
        export_version(ctx, "sayings", format="xlsx", person=LOCAL)
    with pytest.raises(InvalidInput, match="'no slash' is not a repository id of the Hub"):
        export_version(ctx, "sayings", format="jsonl", push="no slash", person=LOCAL)
    with pytest.raises(NotFound):
        export_version(ctx, "nothing", format="jsonl", person=LOCAL)
    with pytest.raises(NotAllowed):
        export_version(ctx, "sayings", format="jsonl", person=RATER)
