"""Reports on datasets from the question to its consequences: kept, asked once, rows dropped, a launch refused, an epoch
timed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from backend.cli.main import app
from backend.db.tables import Analysis, Checkpoint, Run
from backend.domain.data.versions.changes import KeepSample
from backend.domain.data.versions.provenance import DerivedProvenance
from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.states import JobKind, Status
from backend.domain.scaling.plan import PlanConfig
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.training.config import parse_config
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.data.imports import version_of_job
from backend.services.data.reports import (
    DataReportView,
    delete_data_report,
    drop_found_rows,
    epoch_time,
    find_data_report,
    get_data_report,
    list_data_reports,
    read_samples,
    request_data_report,
)
from backend.services.data.versions import derive_version
from backend.services.data.views import VersionView
from backend.services.jobs.jobs import stop_job
from backend.services.metrics.points import add_points
from backend.services.scaling.planner import plan_run
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training import parts
from backend.services.training.parts import resolve_parts
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.data.dataset_world import queue_import
from tests.support.job_work import do_job
from tests.support.jobs import add_stored_job
from tests.support.scenario import add_row
from tests.support.settings import named_installation

RATER = Person(id="r", name="Rater", role="rater")
NAMES = [
    "Mira",
    "Tom",
    "Ada",
    "Ben",
    "Ivo",
    "Una",
    "Rolf",
    "Gerd",
    "Elsa",
    "Nils",
    "Juna",
    "Kaia",
    "Otto",
    "Pia",
    "Quin",
    "Rhea",
    "Sven",
    "Tara",
    "Ulla",
    "Vera",
]
LONG = "A cart leaves the yard at noon and rolls six miles an hour toward a fair forty miles away; when does it arrive?"
ROWS = [
    {
        "instruction": f"What has {name} found near the {name.lower()} tree?",
        "output": f"{name * 3} has found a lamp, {7 * n} coins and {name}'s hat.",
    }
    for n, name in enumerate(NAMES)
]
SILENT = [{"instruction": f"{row['instruction']} " * 12, "output": row["output"]} for row in ROWS]


@pytest.fixture
def ctx(home: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """The context that the command line builds for itself from the environment."""
    with named_installation(monkeypatch, home, ROUNDHOUSE_KEEP_FREE_MB="16") as context:
        yield context


def imported(
    ctx: Context, name: str, rows: list[dict[str, Any]], *, kind: str = "instruction", val_fraction: float = 0.1
) -> VersionView:
    version = queue_import(ctx, name, rows, kind=kind, val_fraction=val_fraction)
    do_job(ctx, version.job_id)
    return version_of_job(ctx, str(version.job_id))


def add_base(ctx: Context, name: str = "base") -> str:
    """A base as far as a report needs it: a tokenizer and its longest context."""
    byte_tokenizer(context=256).save_pretrained(ctx.artifacts.path(f"checkpoints/{name}"))
    return add_row(
        ctx,
        Checkpoint(name=name, origin="added", folder=f"checkpoints/{name}", facts={"context": 256, "vocab_size": 262}),
    )


def made(ctx: Context, dataset: str, **requested: Any) -> DataReportView:
    view = request_data_report(ctx, dataset, person=LOCAL, **requested)
    do_job(ctx, view.job_id)
    return get_data_report(ctx, view.id)


def test_the_same_request_is_computed_once_and_any_input_changes_it(ctx: Context) -> None:
    version = imported(ctx, "sayings", ROWS)
    first = made(ctx, "sayings", context=128)
    assert first.report is not None
    assert (first.status, first.report.train.rows, first.report.tokenizer) == (Status.FINISHED, 18, "bytes")
    again = request_data_report(ctx, version.id, person=LOCAL, context=128)
    assert (again.id, again.reused) == (first.id, True)
    assert {sample.group for sample in read_samples(ctx, again)} >= {"first", "random", "longest"}
    longer = request_data_report(ctx, "sayings", person=LOCAL, context=256)
    assert not longer.reused
    assert request_data_report(ctx, "sayings", person=LOCAL, context=256).id == longer.id, (
        "one on its way is not asked for twice"
    )
    imported(ctx, "fair", [{"question": LONG, "answers": ["late"]}], kind="benchmark", val_fraction=0)
    assert not request_data_report(ctx, "sayings", person=LOCAL, context=128).reused, (
        "a new benchmark is to be looked for"
    )
    assert len(list_data_reports(ctx, version.id)) == 3


def test_tokens_that_a_report_counted_are_those_of_a_plan(ctx: Context) -> None:
    """It said "about 530,183 tokens" of 524,702."""
    texts = [{"text": f"{row['instruction']} {row['output']} {number}"} for number, row in enumerate(ROWS * 20)]
    imported(ctx, "sayings", texts, kind="text")
    tokenizer = train_tokenizer(ctx, name="bytes", dataset="sayings", config=TokenizerConfig(kind="byte"), person=LOCAL)
    do_job(ctx, tokenizer.job_id)
    config = PlanConfig(flops=1e10, dataset="sayings", tokenizer="bytes", context=64)
    estimated = plan_run(ctx, config)
    assert estimated.unique_tokens == int(float(f"{estimated.unique_tokens:.3g}")), "three figures"
    assert any("the dataset has about " in note for note in estimated.notes)
    report = made(ctx, "sayings", source=f"tokenizer:{tokenizer.id}", context=64).report
    assert report is not None
    counted = plan_run(ctx, config)
    assert counted.unique_tokens == report.train.tokens
    assert any(f"the dataset has {report.train.tokens:,} tokens" in note for note in counted.notes)


def test_a_planted_item_is_found_and_dropped(ctx: Context) -> None:
    imported(
        ctx,
        "fair",
        [{"question": LONG, "answers": ["late"]}, {"question": "Who is Una?", "answers": ["x"]}],
        kind="benchmark",
        val_fraction=0,
    )
    planted = {"instruction": "Recite.", "output": f"so: {LONG.upper().replace(',', ' ;')}"}
    version = imported(ctx, "sayings", [*ROWS, planted], val_fraction=0)
    view = made(ctx, "sayings", context=256)
    assert view.report is not None
    (contaminated,) = view.report.contamination
    assert (contaminated.benchmark, contaminated.item, contaminated.split, contaminated.row) == ("fair", 1, "train", 21)
    requested = drop_found_rows(ctx, view.id, "contamination", person=LOCAL)
    do_job(ctx, requested.job_id)
    clean = made(ctx, "sayings@2", context=256)
    assert clean.report is not None
    assert (clean.report.contaminated_rows, clean.report.train.rows) == (0, 20)
    lineage = version_of_job(ctx, str(requested.job_id)).provenance
    assert isinstance(lineage, DerivedProvenance)
    assert (lineage.version_id, lineage.change["reason"]) == (version.id, "Rows with items of benchmarks")
    with pytest.raises(Conflict, match="no such row to drop"):
        drop_found_rows(ctx, clean.id, "contamination", person=LOCAL)
    with pytest.raises(InvalidInput, match="Choose one of duplicates"):
        drop_found_rows(ctx, clean.id, "typos", person=LOCAL)


def test_a_launch_without_a_trained_token_is_refused_with_count_and_cure(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = add_base(ctx)
    imported(ctx, "silent", SILENT)
    config = parse_config(
        {"objective": "sft", "dataset": "silent", "base": "base", "context": 64, "max_steps": 2, "warmup_steps": 0}
    )
    with pytest.raises(InvalidInput, match="within its first 64 tokens: the shortest prompt alone has 454"):
        resolve_parts(ctx, config)  # seen before any report, by the prompts alone
    # what follows is the report's own refusal
    monkeypatch.setattr(parts, "check_trained_tokens", lambda *_, **__: None)
    view = made(ctx, "silent", source="base", context=64)
    assert view.report is not None
    assert view.report.is_silent
    assert find_data_report(ctx, view.version_id, source=f"checkpoint:{base}", context=64) is not None
    with pytest.raises(
        InvalidInput, match="None of the 18 train rows of silent@1 has a trained token within a context of 64 tokens"
    ) as error:
        resolve_parts(ctx, config)
    assert "the answer begins behind the first 64 tokens" in error.value.message
    assert (error.value.field, "Choose a longer context" in str(error.value.remedy)) == ("dataset", True)
    resolve_parts(ctx, config.model_copy(update={"context": 128}))  # another context is another question
    with pytest.raises(Conflict, match="Nothing would be left to train on"):
        drop_found_rows(ctx, view.id, "zero_label", person=LOCAL)


def test_a_few_rows_without_loss_are_counted_and_do_not_block_a_launch(ctx: Context) -> None:
    add_base(ctx)
    imported(ctx, "mixed", [*ROWS, *SILENT[:3]], val_fraction=0)
    view = made(ctx, "mixed", source="base", context=200)
    assert view.report is not None
    assert (
        view.report.train.zero_label_rows,
        view.report.splits["train"].rows,
        view.report.droppable["zero_label"],
    ) == (3, 23, 3)
    resolve_parts(
        ctx,
        parse_config(
            {"objective": "sft", "dataset": "mixed", "base": "base", "context": 200, "max_steps": 2, "warmup_steps": 0}
        ),
    )


def test_misuse_is_refused(ctx: Context) -> None:
    add_base(ctx)
    imported(ctx, "sayings", ROWS)
    for requested, words in (
        ({"context": 512}, "reads at most 256"),
        ({"context": 3}, "context: must be at least 8"),
        ({"micro_batch": 0}, "micro_batch: must be at least 1"),
    ):
        with pytest.raises(InvalidInput, match=words):
            request_data_report(ctx, "sayings", person=LOCAL, source="base", **requested)
    with pytest.raises(NotFound, match="no tokenizer or checkpoint"):
        request_data_report(ctx, "sayings", person=LOCAL, source="nobody")
    with pytest.raises(NotAllowed):
        request_data_report(ctx, "sayings", person=RATER)
    with pytest.raises(NotFound, match="no such report"):
        get_data_report(ctx, "nothing")


def test_a_stopped_or_failed_report_can_be_run_again_and_a_deleted_one_leaves_no_file(ctx: Context) -> None:
    version = imported(ctx, "sayings", ROWS)
    stopped = request_data_report(ctx, "sayings", person=LOCAL)
    stop_job(ctx, str(stopped.job_id), person=LOCAL)
    assert list_data_reports(ctx, version.id) == []
    second = request_data_report(ctx, "sayings", person=LOCAL)
    assert not second.reused
    train = ctx.artifacts.path(str(version.folder)) / "train.parquet"
    train.write_bytes(b"torn")
    do_job(ctx, second.job_id)
    failed = get_data_report(ctx, second.id)
    assert (failed.status, failed.report) == (Status.FAILED, None)
    assert "train.parquet" in failed.error.cause
    assert failed.error.remedy == "Import the dataset again."
    third = request_data_report(ctx, "sayings", person=LOCAL)
    assert not third.reused
    delete_data_report(ctx, third.id, person=LOCAL)
    with pytest.raises(NotFound):
        get_data_report(ctx, third.id)
    assert not (ctx.artifacts.root / "reports").exists() or not list((ctx.artifacts.root / "reports").iterdir())


def test_a_report_of_another_format_is_not_reused(ctx: Context) -> None:
    version = imported(ctx, "sayings", ROWS)
    view = made(ctx, "sayings", context=128)
    with ctx.db.write() as session:
        row = session.scalars(select(Analysis)).one()
        row.config = {**row.config, "format": 0}
        row.result = {"of": "another time"}
    assert get_data_report(ctx, view.id).report is None
    assert find_data_report(ctx, version.id, source=None, context=128) is None


def test_an_epoch_is_timed_by_the_newest_run_of_the_same_base(ctx: Context) -> None:
    base = add_base(ctx)
    version = imported(ctx, "sayings", ROWS)
    view = made(ctx, "sayings", source="base", context=256, micro_batch=4)
    assert view.report is not None
    assert epoch_time(ctx, view) is None
    with ctx.db.write() as session:
        for name, rate, day in (("old", 10.0, 1), ("new", 50.0, 2)):
            job = add_stored_job(session, ctx, JobKind.TRAIN, title=name)
            job.status, job.finished_at = Status.FINISHED, datetime(2026, 1, day, tzinfo=UTC)
            run = Run(name=name, objective="sft", config={}, base_id=base, job_id=job.id, dataset_version_id=version.id)
            session.add(run)
            session.flush()
            add_points(
                session,
                ctx.db,
                run.id,
                [MetricsEvent(step=step, values={"tok_per_sec": rate + step - 2}) for step in (1, 2, 3)],
            )
    time = epoch_time(ctx, view)
    assert time is not None
    assert (time.run, time.tokens_per_s) == ("new", 50.0)
    assert time.seconds == pytest.approx(view.report.train.loss_tokens / 50.0)
    assert view.report.epoch.steps == -(-view.report.epoch.sequences // 4)


def test_the_command_line_prints_the_same(ctx: Context) -> None:
    imported(ctx, "sayings", [*ROWS, ROWS[0]], val_fraction=0)
    view = made(ctx, "sayings", context=128)
    assert view.report is not None
    result = CliRunner().invoke(app, ["data", "report", "sayings", "--context", "128", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    for name in (
        "tokens",
        "truncated_share",
        "zero_label_rows",
        "duplicates",
        "leakage",
        "contamination",
        "packing_efficiency",
        "languages",
    ):
        assert name in answer
    assert (answer["tokens"], answer["duplicates"]["exact"], answer["steps_per_epoch"]) == (
        view.report.train.tokens,
        1,
        view.report.epoch.steps,
    )
    text = CliRunner().invoke(app, ["data", "report", "sayings", "--context", "128"]).stdout
    assert "1 row repeats another one" in text
    assert CliRunner().invoke(app, ["data", "report", "nothing", "--json"]).exit_code == 2


def test_a_report_belongs_to_its_version(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS, val_fraction=0)
    derived = derive_version(ctx, first.id, change=KeepSample(num_rows=5), person=LOCAL)
    do_job(ctx, derived.job_id)
    view = made(ctx, "sayings@2", context=128)
    assert (view.version, view.report.train.rows if view.report else 0) == ("sayings@2", 5)
    assert list_data_reports(ctx, first.id) == []
