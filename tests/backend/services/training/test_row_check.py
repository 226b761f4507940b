"""Rows are looked at before a launch: what nothing can be learned from is refused before it waits in a queue."""

from __future__ import annotations

import pytest

from backend.db.tables import Checkpoint
from backend.domain.training.config import RunConfig
from backend.domain.training.launch_warnings import Code
from backend.errors import InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import add_rows_dataset
from backend.services.estimates.forecasts import forecast
from backend.services.tokenizers.tokenizers import get_tokenizer
from backend.services.training.checks import sample_rows
from backend.services.training.runs import launch_run
from tests.support.job_work import do_job
from tests.support.jobs import list_jobs
from tests.support.scenario import Scenario


@pytest.fixture
def base(ctx: Context) -> str:
    """A base that reads bytes, and a dataset whose prompts are 20 to 60 bytes long."""
    add_rows(ctx, "asked", [20 + n for n in range(41)])
    Scenario(ctx).tokenizer("bytes", kind="byte", dataset="asked")
    with ctx.db.write() as session:
        checkpoint = Checkpoint(
            name="reader", origin="added", family="llama", parameters=10**6, folder=get_tokenizer(ctx, "bytes").folder
        )
        session.add(checkpoint)
        session.flush()
        return f"checkpoint:{checkpoint.id}"


def add_rows(ctx: Context, name: str, lengths: list[int]) -> None:
    rows = [{"prompt": f"{n:05}" + "x" * (length - 5), "completion": "Yes."} for n, length in enumerate(lengths)]
    version = add_rows_dataset(ctx, name=name, kind="instruction", rows=rows, person=LOCAL)
    do_job(ctx, version.job_id)


def sft(dataset: str, context: int) -> RunConfig:
    return RunConfig(
        objective="sft", dataset=dataset, base="reader", context=context, max_steps=100, learning_rate=1e-4
    )  # type: ignore[arg-type]


def test_a_run_without_a_trained_token_is_refused_before_the_queue(ctx: Context, base: str) -> None:
    before = len(list_jobs(ctx))
    with pytest.raises(
        InvalidInput, match=r"has a trained token within its first 16 tokens: the shortest prompt alone has \d\d\."
    ) as caught:
        launch_run(ctx, sft("asked", 16), person=LOCAL)
    assert caught.value.field == "context"
    assert "tokens or more" in str(caught.value.remedy)
    assert len(list_jobs(ctx)) == before
    assert launch_run(ctx, sft("asked", 128), person=LOCAL).id


def test_a_share_of_such_rows_gives_a_warning(ctx: Context, base: str) -> None:
    some = forecast(ctx, sft("asked", 40)).warnings
    assert [warning.field for warning in some if warning.code is Code.SILENT_ROWS] == ["context"]
    assert Code.SILENT_ROWS not in [warning.code for warning in forecast(ctx, sft("asked", 128)).warnings]


def test_a_large_dataset_is_sampled_evenly(ctx: Context, base: str) -> None:
    add_rows(ctx, "many", [20] * 2000 + [90] * 2000)
    sample = sample_rows(ctx, resolve_version(ctx, "many"), source=base)
    assert sample is not None
    assert len(sample.prompt_tokens) == 512
    assert 200 <= sample.num_without_targets(60) <= 312


def test_rows_without_answers_and_unknown_tokenizers_are_not_checked(ctx: Context, base: str) -> None:
    do_job(ctx, add_rows_dataset(ctx, name="text", kind="text", rows=[{"text": "a b"}] * 30, person=LOCAL).job_id)
    assert sample_rows(ctx, resolve_version(ctx, "text"), source=base) is None
    assert sample_rows(ctx, resolve_version(ctx, "asked"), source="checkpoint:gone") is None
