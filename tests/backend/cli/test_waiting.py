"""Waiting for a job where no worker runs."""

from __future__ import annotations

import io

import pytest

from backend.cli.waiting import wait_for_job
from backend.domain.jobs.states import Status
from backend.errors import JobFailed
from backend.services.context import LOCAL, Context
from backend.services.data.imports import import_dataset
from backend.services.data.uploads import save_upload
from backend.services.tokenizers.tokenizers import train_tokenizer

pytestmark = pytest.mark.usefixtures("jobs_done_here")


def tokenizer_job(ctx: Context, *, kind: str, text: str) -> str:
    """A tokenizer that waits for its dataset's import. Returns its job."""
    upload = save_upload(ctx, io.BytesIO(text.encode()), name="a.jsonl", person=LOCAL)
    import_dataset(ctx, name="a", kind=kind, upload=upload, person=LOCAL)
    return str(train_tokenizer(ctx, name="bytes", dataset="a", kind="byte", person=LOCAL).job_id)


def test_the_dependency_of_a_job_runs_first(command_line: Context) -> None:
    job = tokenizer_job(command_line, kind="text", text='{"text": "The roundhouse is warm."}\n' * 3)
    assert wait_for_job(command_line, job, quiet=True).status is Status.FINISHED


def test_a_job_whose_dependency_fails_ends_the_waiting_with_its_cause(command_line: Context) -> None:
    job = tokenizer_job(command_line, kind="preference", text='{"a": 1}\n')
    with pytest.raises(JobFailed, match="preference"):
        wait_for_job(command_line, job, quiet=True)
