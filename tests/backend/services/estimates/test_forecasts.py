"""What is said before a launch: each figure from where it is known, and none where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.db.tables import Analysis, Checkpoint, DatasetVersion, Tokenizer
from backend.domain.data.reports.report import DataReport, Epoch, Packing, ReportQuestion, SplitReport
from backend.domain.estimates.prices import DevicePrices
from backend.domain.jobs.states import JobKind, Status
from backend.domain.training.config import RunConfig
from backend.domain.training.sweep import SweepConfig, parse_sweep
from backend.domain.wording import format_epochs
from backend.errors import NotFound
from backend.services.context import Context
from backend.services.data.reports import FORMAT
from backend.services.estimates.forecasts import SweepForecast, describe_epochs, forecast, forecast_sweep, makespan
from backend.services.jobs.workers import beat
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens
from backend.services.training.parts import RowSample, resolve_parts
from tests.support.jobs import add_stored_job
from tests.support.queries import count_selects
from tests.support.run_world import SHAPE, claim, make_config, measure, report
from tests.support.scenario import Scenario


def work(ctx: Context, slots: int = 1) -> None:
    """Let a worker be there."""
    beat(ctx, name="here/train", host="here", pid=1, slots={"train": slots}, devices=[], gauges={})


def test_time_and_cost_follow_from_what_was_measured(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    config = make_config(max_steps=1000)
    unknown = forecast(ctx, config)
    assert (unknown.prediction.time, unknown.cost_usd, unknown.price_usd) == (None, None, None)
    measure(ctx, config, step_s=3.6)
    priced = replace(ctx, policy=replace(ctx.policy, prices=DevicePrices(default=2.5)))
    forecasted = forecast(priced, config)
    assert forecasted.prediction.time is not None
    assert forecasted.prediction.time.seconds == pytest.approx(3600)
    assert forecasted.cost_usd == pytest.approx(2.5)
    assert (forecasted.tokens, forecasted.steps) == (1000 * 4 * 32, 1000)
    assert forecasted.disk_bytes == forecasted.checkpoint_bytes * forecasted.num_checkpoints > 0
    assert forecasted.free_bytes > 0


def test_tokens_are_counted_against_the_data_and_epochs_end_a_run(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    with ctx.db.write() as session:
        version, tokenizer = session.query(DatasetVersion).one(), session.query(Tokenizer).one()
        version.facts, tokenizer.facts = (
            {"text_bytes": 100_000},
            {"bytes_per_token": 4.0},
        )  # 22,500 tokens in nine tenths of the rows
    forecasted = forecast(ctx, make_config(max_steps=1000))
    assert forecasted.epochs == pytest.approx(128_000 / 22_500)
    assert not forecasted.epochs_at_least
    ended = forecast(ctx, make_config(max_steps=1000, max_epochs=2))
    assert (ended.steps, ended.epochs) == (round(1000 * 2 / (128_000 / 22_500)), 2)
    assert forecast(ctx, make_config(max_steps=10_000)).warnings[0].code == "over_fit"


@pytest.mark.parametrize("num_rows", [1, 400])
def test_epochs_are_about_those_of_the_tokenizer_on_this_data(ctx: Context, scenario: Scenario, num_rows: int) -> None:
    """The rate of the tokenizer's own training text stood there as if known: 1.63 epochs where a run made 0.87."""
    rows = [{"text": "The fox asked the owl. " * 20} for _ in range(40)]
    scenario.dataset("stories", train=rows, val=rows[:2])
    scenario.tokenizer("pieces", dataset="stories")
    scenario.parts()
    words = [" ".join(str(1000003 * row + 7919 * word) for word in range(24000 // num_rows)) for row in range(num_rows)]
    version_id = scenario.dataset("tables", train=[{"text": text} for text in words], val=[{"text": words[0][:900]}])
    train_bytes = sum(map(len, words))
    share = num_rows / (num_rows + 1) if num_rows > 20 else 0.95
    with ctx.db.write() as session:
        session.get_one(DatasetVersion, version_id).facts = {"text_bytes": round(train_bytes / share)}
    counted = sum(count_tokens(ctx, resolve_source(ctx, "pieces"), words))
    config = make_config(dataset="tables", max_steps=100)
    expected = forecast(ctx, config)
    assert expected.epochs == pytest.approx(config.tokens_per_step * 100 / counted, rel=0.02)
    assert describe_epochs(expected) == f"about {format_epochs(expected.epochs)}"


def test_a_data_report_gives_sequences_padding_and_truncation(ctx: Context, scenario: Scenario) -> None:
    scenario.dataset("talks", kind="chat")
    with ctx.db.write() as session:
        base = Checkpoint(name="oak", origin="added", folder="checkpoints/oak", source="oak", parameters=1_000_000)
        session.add(base)
        session.flush()
        version = session.query(DatasetVersion).one()
        ids = version.id, base.id
    values: dict[str, Any] = {
        "objective": "sft",
        "dataset": "talks",
        "base": "oak",
        "context": 64,
        "micro_batch": 2,
        "max_steps": 90,
        "warmup_steps": 5,
    }
    packed = forecast(ctx, RunConfig(**values))
    assert (packed.epochs, packed.epochs_at_least) == (2.0, True), "90 rows, and how many share a sequence nobody knows"
    question = ReportQuestion(context=64, micro_batch=2)
    report = DataReport(
        kind="chat",
        trainer="sft",
        tokenizer="oak",
        question=question,
        splits={"train": SplitReport(rows=90, truncated_rows=45)},
        packing=Packing(padded=0.3, packed=0.98, packed_sequences=20),
        epoch=Epoch(sequences=20),
    )
    with ctx.db.write() as session:
        job = add_stored_job(session, ctx, JobKind.DATA_REPORT, title="report")
        job.status = Status.FINISHED
        config = {"format": FORMAT, "source": f"checkpoint:{ids[1]}", "question": question.model_dump()}
        session.add(
            Analysis(
                kind="data_report",
                job_id=job.id,
                dataset_version_id=ids[0],
                config=config,
                result=report.model_dump(mode="json"),
            )
        )
    known = forecast(ctx, RunConfig(**values))
    assert (known.epochs, known.epochs_at_least) == (9.0, False)
    assert {warning.code.value for warning in known.warnings} == {"cut_rows", "over_fit"}
    padded = forecast(ctx, RunConfig(**values, packing=False))
    assert (padded.epochs, padded.epochs_at_least) == (2.0, False)
    assert {warning.code.value for warning in padded.warnings} == {"cut_rows", "padding"}
    assert "70 % of what is computed is padding" in next(w.sentence for w in padded.warnings if w.code == "padding")


def test_packing_is_named_only_where_rows_are_packed(ctx: Context, scenario: Scenario) -> None:
    scenario.dataset("talks", kind="chat")
    scenario.dataset("pairs", kind="preference")
    scenario.checkpoint("oak")
    values: dict[str, Any] = {"base": "oak", "context": 64, "micro_batch": 2, "max_steps": 90, "warmup_steps": 5}
    for objective, dataset, is_packed in (("sft", "talks", True), ("dpo", "pairs", False)):
        config = RunConfig(objective=objective, dataset=dataset, **values)
        parts = resolve_parts(ctx, config)
        sample = RowSample((10, 10, 10, 70), (20, 20, 20, 80), parts.version.train_rows)
        stated = describe_epochs(forecast(ctx, config, parts=replace(parts, rows=sample)))
        assert ("as packing joins rows" in stated) == is_packed, stated
        assert stated.startswith("between" if is_packed else "at least"), stated


def test_the_queue_position_counts_the_jobs_ahead_and_their_time(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    assert forecast(ctx, make_config()).queue.num_slots == 0
    work(ctx)
    assert (forecast(ctx, make_config()).queue.ahead, forecast(ctx, make_config()).queue.wait_s) == (0, 0.0)
    assert forecast(ctx, make_config(device="gpu")).queue.num_slots == 0, "no worker has a GPU"
    taken = claim(ctx, scenario.run(name="running"))
    report(ctx, taken, {"type": "progress", "done": 50, "total": 100, "unit": "step", "rate": 2.0, "time": 1.0})
    scenario.run(name="waiting", priority=5)
    scenario.run(name="urgent", priority=0)
    queue = forecast(ctx, make_config(priority=1)).queue
    assert (queue.ahead, queue.wait_s) == (2, None), "how long the waiting one takes nobody knows"
    measure(ctx, make_config(), step_s=0.1)
    assert forecast(ctx, make_config(priority=1)).queue.wait_s == pytest.approx(25 + 10)
    assert forecast(ctx, make_config(priority=9)).queue.wait_s == pytest.approx(25 + 10 + 10)


def test_a_law_extrapolated_too_far_is_left_out(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    forecasted = forecast(ctx, make_config())
    assert forecasted.loss is None
    assert "don't extrapolate" in forecasted.loss_missing
    large = make_config(
        architecture={
            **SHAPE.model_dump(exclude_none=True),
            "num_layers": 12,
            "width": 768,
            "num_heads": 12,
            "num_kv_heads": 12,
            "feed_forward": 2048,
            "vocab_size": 50_000,
        },
        max_steps=100_000,
        micro_batch=512,
    )
    expected = forecast(ctx, large).loss
    assert expected is not None
    assert expected.estimate.low is not None
    assert expected.estimate.high is not None
    assert 2.0 < expected.estimate.low < expected.estimate.value < expected.estimate.high < 6.0
    assert not expected.is_own


def test_missing_parts_are_named(ctx: Context) -> None:
    with pytest.raises(NotFound, match="tales"):
        forecast(ctx, make_config())


def sweep_of(**values: Any) -> SweepConfig:
    vary = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    return parse_sweep({"name": "s", "run": make_config().model_dump(mode="json"), "vary": vary, "runs": 12, **values})


def expect(ctx: Context, config: SweepConfig) -> SweepForecast:
    return forecast_sweep(ctx, config, base=forecast(ctx, config.run))


def test_twelve_runs_take_twelve_times_as_long_or_less_by_the_slots(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    measure(ctx, make_config(), step_s=1.0)
    unserved = expect(ctx, sweep_of())
    assert (unserved.num_runs, unserved.at_once, unserved.seconds) == (12, 2, pytest.approx(600))
    work(ctx, slots=1)
    assert (expect(ctx, sweep_of()).at_once, expect(ctx, sweep_of()).seconds) == (1, pytest.approx(1200))
    work(ctx, slots=4)
    assert (expect(ctx, sweep_of()).at_once, expect(ctx, sweep_of()).seconds) == (2, pytest.approx(600))
    assert expect(ctx, sweep_of(parallel=5)).seconds == pytest.approx(300)
    one = forecast(ctx, sweep_of().run)
    assert expect(ctx, sweep_of()).disk_bytes == 12 * one.disk_bytes


def test_runs_of_different_length_are_forecast_each(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    work(ctx, slots=1)
    measure(ctx, make_config(), step_s=1.0)
    total = expect(ctx, sweep_of(vary={"max_steps": [100, 200, 400]}, method="grid"))
    assert (total.seconds, total.run_seconds) == (pytest.approx(700), (pytest.approx(100), pytest.approx(400)))
    assert not total.is_sampled


def test_the_memory_of_a_sweep_is_that_of_its_largest_run(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    measure(ctx, make_config(), step_s=1.0)
    total = expect(ctx, sweep_of(vary={"micro_batch": [4, 64]}, method="grid"))
    each = [forecast(ctx, make_config(micro_batch=size)).prediction.memory.num_bytes or 0 for size in (4, 64)]
    assert each[0] != each[1]
    assert total.memory_bytes == max(each)
    assert total.num_runs == 2


def test_a_run_that_can_not_be_launched_is_reported(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    total = expect(ctx, sweep_of(vary={"context": [32, 128]}, method="grid"))
    assert "longer than the architecture" in total.problem


def test_a_sweep_of_rates_needs_one_forecast(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    base = forecast(ctx, sweep_of().run)
    with count_selects(ctx.db.engine) as one:
        forecast(ctx, sweep_of().run, parts=base.parts)
    with count_selects(ctx.db.engine) as many:
        forecast_sweep(ctx, sweep_of(runs=200), base=base)
    assert many == one
    assert many["architectures"] == 0


def test_slots_are_filled_as_they_become_free() -> None:
    assert makespan([5, 1, 1, 1, 1], slots=2) == 5
    assert makespan([1, 1, 1], slots=1) == 3
    assert makespan([2, 2, 2], slots=2) == 4
