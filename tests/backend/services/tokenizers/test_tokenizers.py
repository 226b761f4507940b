"""Tokenizers: trained by a job, waiting for an import where they must."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.db.tables import Analysis, Run
from backend.domain.jobs.states import Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import delete_dataset
from backend.services.data.imports import add_rows_dataset
from backend.services.jobs.claims import claim_job
from backend.services.jobs.jobs import get_job
from backend.services.tokenizers.tokenizers import (
    delete_tokenizer,
    get_tokenizer,
    list_tokenizers,
    rename_tokenizer,
    train_tokenizer,
)
from tests.support.job_work import do_job
from tests.support.scenario import add_row

ROWS = [{"text": f"The miller of the village counts {n} sacks of flour and sings."} for n in range(60)]


def test_tokenizer_waits_for_the_import_of_its_dataset(ctx: Context) -> None:
    version = add_rows_dataset(ctx, name="mill", kind="text", rows=ROWS, person=LOCAL)
    queued = train_tokenizer(ctx, name="mill-bpe", dataset="mill", config=TokenizerConfig(vocab_size=300), person=LOCAL)
    assert queued.status is Status.QUEUED
    assert claim_job(ctx, str(queued.job_id), owner="w", host="h") is None, "the import is not done"
    do_job(ctx, version.job_id)
    do_job(ctx, queued.job_id)
    done = get_tokenizer(ctx, "mill-bpe")
    assert done.is_ready
    assert done.vocab_size == 300
    assert done.facts.bytes_per_token > 1.2
    assert (ctx.artifacts.path(str(done.folder)) / "tokenizer.json").is_file()
    assert done.dataset == "mill@1"
    with pytest.raises(Conflict, match="tokenizer “mill-bpe”"):
        delete_dataset(ctx, version.dataset_id, person=LOCAL)


def test_impossible_vocabulary_is_refused_before_anything_is_queued(ctx: Context) -> None:
    add_rows_dataset(ctx, name="mill", kind="text", rows=ROWS, person=LOCAL)
    with pytest.raises(InvalidInput, match="262"):
        train_tokenizer(ctx, name="t", dataset="mill", config=TokenizerConfig(vocab_size=100), person=LOCAL)
    with pytest.raises(NotFound, match="no dataset"):
        train_tokenizer(ctx, name="t", dataset="elsewhere", person=LOCAL)
    assert list_tokenizers(ctx) == []


def test_name_is_taken_until_its_training_failed(ctx: Context) -> None:
    version = add_rows_dataset(ctx, name="mill", kind="text", rows=ROWS, person=LOCAL)
    done = do_job(ctx, version.job_id)
    first = train_tokenizer(ctx, name="t", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL)
    with pytest.raises(Conflict, match="already a tokenizer"):
        train_tokenizer(ctx, name="t", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL)
    (ctx.artifacts.path(str(done.result["folder"])) / "train.parquet").rename(ctx.artifacts.root / "aside")
    assert do_job(ctx, first.job_id).status is Status.FAILED
    (ctx.artifacts.root / "aside").rename(ctx.artifacts.path(str(done.result["folder"])) / "train.parquet")
    second = train_tokenizer(ctx, name="t", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL)
    assert do_job(ctx, second.job_id).status is Status.FINISHED
    assert get_tokenizer(ctx, "t").vocab_size == 262


def test_tokenizer_of_a_run_is_not_deleted(ctx: Context) -> None:
    version = add_rows_dataset(ctx, name="mill", kind="text", rows=ROWS, person=LOCAL)
    do_job(ctx, version.job_id)
    queued = train_tokenizer(
        ctx, name="t", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL, idempotency_key="k"
    )
    assert (
        train_tokenizer(
            ctx, name="t", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL, idempotency_key="k"
        ).id
        == queued.id
    )
    with ThreadPoolExecutor(4) as pool:  # a double click arrives in two threads at once
        made = pool.map(
            lambda _: (
                train_tokenizer(
                    ctx,
                    name="u",
                    dataset="mill",
                    config=TokenizerConfig(kind="byte"),
                    person=LOCAL,
                    idempotency_key="u",
                ).id
            ),
            range(4),
        )
    assert len(set(made)) == 1
    with pytest.raises(Conflict, match="being trained"):
        delete_tokenizer(ctx, queued.id, person=LOCAL)
    do_job(ctx, queued.job_id)
    rename_tokenizer(ctx, queued.id, "bytes", person=LOCAL)
    add_row(ctx, Run(name="r", objective="pretrain", config={}, tokenizer_id=queued.id))
    with pytest.raises(Conflict, match="run “r”"):
        delete_tokenizer(ctx, "bytes", person=LOCAL)
    assert get_job(ctx, str(queued.job_id)).status is Status.FINISHED


def test_reports_on_a_tokenizer_are_deleted_with_it_and_leave_no_file(ctx: Context) -> None:
    version = add_rows_dataset(ctx, name="mill", kind="text", rows=ROWS, person=LOCAL)
    do_job(ctx, version.job_id)
    queued = train_tokenizer(ctx, name="t", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL)
    do_job(ctx, queued.job_id)
    folder = ctx.artifacts.folder("reports", "r")
    add_row(
        ctx,
        Analysis(id="r", kind="data_report", tokenizer_id=queued.id, dataset_version_id=version.id, folder="reports/r"),
    )
    delete_tokenizer(ctx, "t", person=LOCAL)
    assert not folder.exists()
    with ctx.db.read() as session:
        assert session.get(Analysis, "r") is None
