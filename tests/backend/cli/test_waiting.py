"""Waiting for a job where no worker runs, and for a replica."""

from __future__ import annotations

import pytest

from backend.cli.endpoint import _emit_started
from backend.cli.waiting import wait_for_job
from backend.db.tables import Checkpoint
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.errors import JobFailed, Unavailable
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next, requeue
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import get_endpoint
from backend.services.tokenizers.tokenizers import train_tokenizer
from tests.support.data.dataset_world import queue_import
from tests.support.scenario import add_row

pytestmark = pytest.mark.usefixtures("jobs_done_here")


def tokenizer_job(ctx: Context, *, kind: str, text: str) -> str:
    """A tokenizer that waits for its dataset's import. Returns its job."""
    queue_import(ctx, "a", text, file="a.jsonl", kind=kind)
    return str(
        train_tokenizer(ctx, name="bytes", dataset="a", config=TokenizerConfig(kind="byte"), person=LOCAL).job_id
    )


def test_the_dependency_of_a_job_runs_first(command_line: Context) -> None:
    job = tokenizer_job(command_line, kind="text", text='{"text": "The roundhouse is warm."}\n' * 3)
    assert wait_for_job(command_line, job, quiet=True).status is Status.FINISHED


def test_a_job_whose_dependency_fails_ends_the_waiting_with_its_cause(command_line: Context) -> None:
    job = tokenizer_job(command_line, kind="preference", text='{"a": 1}\n')
    with pytest.raises(JobFailed, match="preference"):
        wait_for_job(command_line, job, quiet=True)


def test_a_replica_that_does_not_start_ends_the_waiting_with_its_cause_and_cure(command_line: Context) -> None:
    ctx = command_line
    add_row(ctx, Checkpoint(id="tiny", name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=1))
    deploy(ctx, checkpoint_id="tiny", name="tales", person=LOCAL)
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    failure = JobFailure(cause="The file is cut off.", remedy="Add the base again.")
    with ctx.db.write() as session:
        requeue(session, ctx, claim, error=failure, lasted_s=1)
    with pytest.raises(Unavailable) as refused:
        _emit_started(ctx, get_endpoint(ctx, "tales"), wait=True)
    assert refused.value.message == "Revision 1 of 'tales' did not become ready: The file is cut off."
    assert refused.value.remedy == "Add the base again."
