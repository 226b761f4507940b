"""A run's report says what is known, in a form that the Hub reads, and nothing in it can leave its place."""

from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from backend.domain.jobs.results import RunMeasurement, TrainResult
from backend.domain.jobs.states import Status
from backend.domain.training.report import run_report_html
from backend.domain.training.summary import TOKENS
from backend.services.context import LOCAL, Context
from backend.services.job_events import record_finish
from backend.services.metrics.curves import axes_of_runs
from backend.services.metrics.points import run_metric_names
from backend.services.training.figures import figures_of_runs
from backend.services.training.reports import build_report, energy_of, report_body, run_report_text
from backend.services.training.run_table import read_run_table
from backend.services.training.runs import launch_run, resume_run, set_notes
from backend.services.training.views import get_run
from tests.support.run_world import claim, end, make_config, report
from tests.support.scenario import Scenario

EVIL = "</code></pre><script>alert(1)</script>\n```\n![x](http://evil.example/p.png) <img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Collects every element and attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


@pytest.fixture
def run_id(ctx: Context, scenario: Scenario) -> str:
    run = scenario.run(name="Tales | one", learning_rate=1e-3)
    taken = claim(ctx, run)
    points = [
        {
            "type": "metrics",
            "step": step,
            "time": 1000.0 + step,
            "values": {"train_loss": 4 - step / 50, "power_w": 100.0},
        }
        for step in range(1, 101)
    ]
    report(ctx, taken, *points, {"type": "metrics", "step": 100, "time": 1100.0, "values": {"val_loss": 2.25}})
    report(ctx, taken, {"type": "sample", "step": 100, "prompt": EVIL, "completion": f"Mira {EVIL}", "time": 1100.0})
    scenario.checkpoint(run=run, step=100)
    set_notes(ctx, run.id, EVIL, person=LOCAL)
    return run.id


def test_the_markdown_is_a_model_card_that_the_hub_reads(ctx: Context, run_id: str) -> None:
    text = run_report_text(ctx, run_id)
    card = ModelCard(text)
    assert card.data.pipeline_tag == "text-generation"
    assert "roundhouse" in card.data.tags
    assert card.data.datasets is None, "the Hub knows no dataset of ours"
    assert card.data.base_model is None
    assert "best validation loss | 2.2500" in text
    config = yaml.safe_load(text.split("```yaml\n")[1].split("\n```")[0])
    launched = make_config(name="Tales | one", learning_rate=1e-3, dataset="tales@1")
    assert launched.model_dump(mode="json", include=config.keys()) == config


def test_a_run_that_was_resumed_with_more_steps_does_not_claim_that_its_yaml_repeats_it(
    ctx: Context, scenario: Scenario
) -> None:
    """Its first 60 steps followed a schedule of 60, and the YAML, said to launch the same run, had one of 80."""
    run = scenario.run(status=Status.FINISHED, name="tiny", max_steps=60, warmup_steps=None)
    assert "launches the same run" in run_report_text(ctx, run.id)
    scenario.checkpoint(run=run, step=60)
    resume_run(ctx, run.id, person=LOCAL, max_steps=80)
    text = run_report_text(ctx, run.id)
    assert "launches the same run" not in text
    assert "| resumed | from step 60 with 80 steps instead of 60 |" in text
    assert "roundhouse run resume 'tiny repeated' --max-steps 80" in text
    config = yaml.safe_load(text.split("```yaml\n")[1].split("\n```")[0])
    assert (config["max_steps"], config.get("warmup_steps")) == (60, None)


def test_a_run_that_was_stopped_and_resumed_as_it_was_is_repeated_by_its_yaml(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(status=Status.CANCELLED, warmup_steps=None)
    scenario.checkpoint(run=run, step=40)
    before = run_report_text(ctx, run.id)
    resume_run(ctx, run.id, person=LOCAL)
    text = run_report_text(ctx, run.id)
    assert "launches the same run" in text
    assert text.split("```yaml")[1] == before.split("```yaml")[1]


def test_no_text_of_the_run_becomes_an_element_or_an_address(ctx: Context, run_id: str) -> None:
    tags = Tags()
    tags.feed(run_report_text(ctx, run_id, form="html"))
    assert not {"script", "img", "iframe", "link", "object", "a"} & set(tags.names)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert not [value for name, value in tags.attributes if name in ("src", "href")]
    assert tags.names.count("svg") == 2, "the losses share a drawing, and power has its own"
    rendered = Tags()
    rendered.feed(
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(run_report_text(ctx, run_id).split("---\n", 2)[2])
    )
    assert not {"script", "img"} & set(rendered.names), "nor where a reader of Markdown lets HTML through"


def test_a_child_lists_its_differences_from_its_parent(ctx: Context, run_id: str) -> None:
    child = launch_run(ctx, make_config(name="Two", learning_rate=2e-3), person=LOCAL, parent=run_id)
    report = build_report(ctx, child.id)
    assert report.parent == "Tales | one"
    assert ("Learning rate", "0.001", "0.002") in report.differences
    assert len(report.differences) == 1
    assert "Two" in run_report_html(report), "a run that has not begun has a report too"


def test_energy_is_the_integral_of_power_without_the_pauses(ctx: Context, scenario: Scenario, run_id: str) -> None:
    joules, share = energy_of(ctx, run_id)
    assert joules == pytest.approx(100.0 * 99)
    assert share == pytest.approx(1.0)
    taken = claim(ctx, scenario.run(name="Paused"))
    watts = np.array([50.0, 150.0, 80.0, 80.0])
    for step, (moment, value) in enumerate(
        zip((0.0, 10.0, 10.0 + timedelta(hours=1).seconds, 3620.0), watts, strict=True), start=1
    ):
        report(
            ctx, taken, {"type": "metrics", "step": step, "time": 5000.0 + moment, "values": {"power_w": float(value)}}
        )
    paused = taken.payload.run_id
    joules, share = energy_of(ctx, paused)
    assert joules == pytest.approx(10 * 100 + 10 * 80)
    assert share == pytest.approx(20 / 3620)


def test_tokens_of_a_run_that_samples_are_those_it_processed(ctx: Context, scenario: Scenario) -> None:
    """Of four steps of 8 completions of 16 tokens it said 8,192 tokens, 517 a second, beside a chart of 66."""
    launched = scenario.grpo(context=64, micro_batch=8, max_steps=4)
    taken = claim(ctx, launched)
    assert axes_of_runs(ctx, [launched.id])[launched.id].tokens_per_step is None
    for step in range(1, 5):
        values = {"tok_per_sec": 66.0, TOKENS: 200.0 * step}
        report(ctx, taken, {"type": "metrics", "step": step, "time": 1.0 * step, "values": values})
    end(ctx, taken, Status.FINISHED)
    run = get_run(ctx, launched.id)
    assert (run.tokens, run.tokens_per_step) == (800, 200.0)
    table = read_run_table(ctx)
    row = next(one for one in table.rows if one.id == run.id)
    assert table.reader("tokens")(row) == 800
    assert axes_of_runs(ctx, [run.id])[run.id].tokens_per_step == 200
    assert "| tokens | 800, 200 per step |" in run_report_text(ctx, run.id)
    with ctx.db.read() as session:
        assert {name for _, name in run_metric_names(session, run.id)} == {"tok_per_sec"}, "no curve of a sum"


def test_speed_and_memory_are_the_figures_of_the_chart(ctx: Context, scenario: Scenario, run_id: str) -> None:
    taken = claim(ctx, scenario.run(name="Figures"))
    speeds = [50.0, 47.0, 46.0, 48.0, 17.0]
    rows = [
        {"type": "metrics", "step": step, "time": float(step), "values": {"tok_per_sec": speed, "memory_bytes": 1.51e9}}
        for step, speed in enumerate(speeds, start=1)
    ]
    report(ctx, taken, *rows)
    measured = {
        "measured_bytes": 2_100_000_000,
        "tokens_per_s": 46.5,
        "device": "cpu",
        "device_kind": "cpu",
        "step_s": 1.0,
    }
    with ctx.db.write() as session:
        measurement = RunMeasurement(**measured, step_s_low=1.0, step_s_high=1.0, steps_timed=5.0)
        record_finish(session, ctx, taken, TrainResult(final_step=5, measurement=measurement))
    run = taken.payload.run_id
    assert figures_of_runs(ctx, [run])[run].by_metric() == {"tok_per_sec": "median 47", "memory_bytes": "peak 2.1 GB"}
    text = run_report_text(ctx, run)
    assert "| tokens per second | median 47 |" in text
    assert "| memory | peak 2.1 GB |" in text
    assert "46" not in text.split("## Curves")[0], "one source for each number"


def test_the_body_for_a_page_escapes_as_the_page_does(ctx: Context, run_id: str) -> None:
    body = report_body(ctx, run_id, escape=lambda text: f"<{len(text)}>")
    assert body.startswith("<11>: <"), "no title and no front matter"
    assert "#### Samples at step 100" in body
    assert "> <" in body
