"""Parts of a run: resolved once per request, and handed on to everything that needs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.db.tables import Checkpoint, Measurement
from backend.domain.training.config import RunConfig
from backend.domain.training.launch_warnings import Code
from backend.domain.training.packing import count_sequences
from backend.domain.wording import format_epochs
from backend.errors import InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import add_rows_dataset
from backend.services.estimates.forecasts import describe_epochs, describe_truncated, forecast
from backend.services.estimates.measurements import subject_of
from backend.services.estimates.probes import find_probe, launch_probe
from backend.services.scaling.planner import find_pool
from backend.services.tokenizers.tokenizers import get_tokenizer
from backend.services.training.parts import resolve_parts, sample_rows
from backend.services.training.runs import launch_run
from tests.support.job_work import do_job
from tests.support.jobs import list_jobs
from tests.support.queries import count_selects
from tests.support.run_world import make_config
from tests.support.scenario import Scenario, add_row

PART_TABLES = ("datasets", "dataset_versions", "tokenizers", "architectures", "checkpoints", "workers")


@pytest.mark.parametrize("objective", ["pretrain", "sft"])
def test_a_rerun_of_the_launch_page_resolves_the_parts_once(ctx: Context, scenario: Scenario, objective: str) -> None:
    """Forecast, memory, queue and probe each looked them up again: three times a draw of the page."""
    scenario.parts()
    scenario.dataset("chats", kind="chat")
    add_row(ctx, Checkpoint(name="oak", origin="added", folder="checkpoints/oak", parameters=1_000_000))
    sft: dict[str, Any] = {
        "objective": "sft",
        "dataset": "chats",
        "architecture": None,
        "tokenizer": None,
        "base": "oak",
    }
    config = make_config(**(sft if objective == "sft" else {}))
    with count_selects(ctx.db.engine) as once:
        resolve_parts(ctx, config)
    with count_selects(ctx.db.engine) as draw:
        expected = forecast(ctx, config)
        find_probe(ctx, config, parts=expected.parts)
    with count_selects(ctx.db.engine) as law:  # the one thing that reads these tables for another reason
        if tokenizer := expected.parts.tokenizer:
            find_pool(ctx, version_id=expected.parts.version.id, tokenizer_id=tokenizer.id, context=config.context)
    assert {table: draw[table] for table in PART_TABLES} == {table: once[table] + law[table] for table in PART_TABLES}
    assert once["workers"] == 1


def test_a_launch_and_a_probe_take_the_parts_that_were_resolved(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    config = make_config()
    parts = resolve_parts(ctx, config)
    with count_selects(ctx.db.engine) as counts:
        launch_probe(ctx, config, person=LOCAL, parts=parts)
        run = launch_run(ctx, config, person=LOCAL, parts=parts)
    assert run.dataset == "tales@1"
    assert (counts["tokenizers"], counts["architectures"], counts["workers"]) == (0, 0, 0)


@pytest.mark.parametrize("path", ["eval_every", "checkpoint_every"])
def test_a_cadence_that_the_run_never_reaches_is_refused(scenario: Scenario, path: str) -> None:
    """A run of 77 steps was stored with an evaluation every 110 steps; a default that was not given stays silent."""
    scenario.parts()
    with pytest.raises(InvalidInput, match="every 110 steps would never come in a run of 77 steps") as caught:
        scenario.run(max_steps=77, **{path: 110})
    assert caught.value.field == path
    assert caught.value.remedy.endswith("or leave it out: a run ends with an evaluation and a checkpoint.")
    scenario.run(max_steps=7)


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


def test_rows_longer_than_the_context_give_a_warning_without_a_report(ctx: Context, base: str) -> None:
    warnings = {one.code: one.sentence for one in forecast(ctx, sft("asked", 40)).warnings}
    assert warnings[Code.CUT_ROWS].startswith("At least 5")  # rows of 20 to 60 bytes, with a short answer
    assert Code.CUT_ROWS not in [one.code for one in forecast(ctx, sft("asked", 128)).warnings]


def test_a_share_of_truncated_rows_is_stated_below_that_of_a_warning(ctx: Context, base: str) -> None:
    """91 of 475 rows were truncated, and the form did not say it."""
    few = forecast(ctx, sft("asked", 61))
    assert Code.CUT_ROWS not in [one.code for one in few.warnings]
    assert few.truncated
    assert describe_truncated(few).endswith(" % of the train rows are truncated to 61 tokens")
    assert describe_truncated(few).startswith("At least ")
    assert describe_truncated(forecast(ctx, sft("asked", 128))) == ""


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


def test_epochs_of_packed_rows_are_an_interval_until_a_run_has_counted_its_sequences(ctx: Context, base: str) -> None:
    """“At least 72 % of one epoch” stood over a run that then made 1.56."""
    config = sft("asked", 256)
    expected = forecast(ctx, config)
    rows = resolve_version(ctx, "asked").train_rows
    trained = config.tokens_per_step // config.context * config.max_steps
    assert expected.epochs == pytest.approx(trained / rows), "as if no two rows shared a sequence"
    lengths = np.array([one + 2 for one in range(20, 61)])  # a byte a token; each of both texts counts one less
    fewest = count_sequences(lengths, 256) * rows / len(lengths)
    assert expected.epochs_at_most == pytest.approx(trained / fewest, rel=0.1)
    assert expected.epochs_at_most > 4 * expected.epochs
    said = describe_epochs(expected)
    assert said.startswith(f"between {format_epochs(expected.epochs)} and about ")
    for estimated in (False, True):
        equal = replace(expected, epochs_at_most=1.00001 * expected.epochs, epochs_estimated=estimated)
        assert describe_epochs(equal) == f"about {format_epochs(expected.epochs)}"
    padded = forecast(ctx, config.model_copy(update={"packing": False}))
    assert (padded.epochs_at_most, "between" in describe_epochs(padded)) == (None, False)

    parts = resolve_parts(ctx, config)
    shape = parts.shape
    subject = subject_of(
        config,
        shape,
        device=parts.device.kind,
        data=parts.version.id,
        base=parts.base.id if parts.base else None,
        parameters=parts.base.parameters if parts.base else None,
    )
    with ctx.db.write() as session:
        session.add(
            Measurement(
                origin="run",
                setting=subject.stored,
                setting_hash=subject.fingerprint,
                device=parts.device.name,
                estimated_bytes=1,
                measured_bytes=50_000_000,
                tokens_per_s=1.0,
                facts={"step_s": 1.0, "epoch_sequences": 7},
            )
        )
    counted = forecast(ctx, config)
    assert (counted.epochs, counted.epochs_at_least, counted.epochs_at_most) == (trained / 7, False, None)
    assert describe_epochs(counted) == format_epochs(trained / 7)
