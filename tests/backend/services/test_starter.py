"""Starter content: queued at the first start, once."""

from __future__ import annotations

from backend.services.architectures import list_architectures
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import delete_dataset, get_dataset, list_datasets
from backend.services.starter import (
    STARTER_ARCHITECTURE,
    STARTER_DATASETS,
    STARTER_TEXT,
    STARTER_TOKENIZER,
    ensure_starter_content,
)
from backend.services.tokenizers.tokenizers import get_tokenizer
from tests.support.job_work import do_job
from tests.support.jobs import list_jobs


def test_first_start_queues_everything_and_the_second_nothing(ctx: Context) -> None:
    ensure_starter_content(ctx)
    ensure_starter_content(ctx)
    assert {dataset.name for dataset in list_datasets(ctx)} == {dataset.name for dataset in STARTER_DATASETS}
    assert len(list_jobs(ctx)) == len(STARTER_DATASETS) + 1
    (architecture,) = list_architectures(ctx)
    assert architecture.name == STARTER_ARCHITECTURE
    assert 0.8e6 < architecture.parameters < 1.5e6
    assert get_tokenizer(ctx, STARTER_TOKENIZER).dataset == f"{STARTER_TEXT}@1"


def test_starter_datasets_import_without_a_rejected_row(ctx: Context) -> None:
    ensure_starter_content(ctx)
    for dataset in list_datasets(ctx):
        job = do_job(ctx, dataset.versions[0].job_id)
        assert job.status == "finished", job.error
        version = get_dataset(ctx, dataset.name).versions[0]
        assert version.rejected_rows == 0, version.rejected
        assert version.rows > 0
    stories = get_dataset(ctx, STARTER_TEXT).versions[0]
    assert 1e6 < stories.facts.text_bytes < 2e6


def test_deleted_content_stays_deleted(ctx: Context) -> None:
    ensure_starter_content(ctx)
    prompts = next(dataset for dataset in list_datasets(ctx) if dataset.kind == "prompts")
    do_job(ctx, prompts.versions[0].job_id)
    delete_dataset(ctx, prompts.id, person=LOCAL)
    ensure_starter_content(ctx)
    assert prompts.name not in {dataset.name for dataset in list_datasets(ctx)}
