"""A dataset's report on its page: asked for, on its way, failed, read; the rows that the trainer sees; hostile text;
rows dropped.
"""

from __future__ import annotations

import json
from typing import Any

from streamlit.testing.v1 import AppTest

from backend.services.context import LOCAL, Context
from backend.services.data.datasets import get_dataset
from backend.services.data.imports import version_of_job
from backend.services.data.reports import get_data_report, list_data_reports, read_samples, request_data_report
from backend.services.data.views import VersionView
from backend.services.training.parts import resolve_parts
from jobs.modeling.tokenizers import byte_tokenizer
from pages.components.training.launch_checks import known_findings
from tests.support.data.dataset_world import done, queue_import
from tests.support.job_work import do_job
from tests.support.opening import open_page, words
from tests.support.run_world import make_config
from tests.support.scenario import Scenario

EVIL = "![x](http://evil.example/x.png) <script>alert(1)</script> [y](javascript:alert(2)) $x^2$ :red[no] `code`"
ROWS = [
    {"instruction": f"What is {n} times {n + 3}, clerk {n % 7}?", "output": f"It is {n * (n + 3)}, said clerk {n % 7}."}
    for n in range(20)
]
HOSTILE = [
    {"instruction": EVIL, "output": "\u202eevil\u202c and \x1b[31mred"},
    {"instruction": EVIL, "output": "\u202eevil\u202c and \x1b[31mred"},
    {"instruction": "a" * 60_000, "output": "b" * 30_000},
]


def imported(site: Context, rows: list[dict[str, Any]], *, name: str = "sayings") -> VersionView:
    return done(site, queue_import(site, name, rows, val_fraction=0))


def open_report(version: VersionView, **query: str) -> AppTest:
    return open_page("build/datasets.py", dataset=version.dataset_id, report="1", **query)


def marks(app: AppTest) -> list[tuple[list[str], list[str]]]:
    """The tokens of every strip on the page with how each is marked."""
    strips = [
        json.loads(part.proto.json)
        for part in app.get("bidi_component")
        if part.proto.component_name == "roundhouse_token_strip"
    ]
    return [(data["tokens"], data["marks"]) for data in strips]


def test_a_report_is_requested_waits_and_shows_coloured_answers(site: Context) -> None:
    version = imported(site, ROWS)
    app = open_report(version, context="256", micro_batch="4")
    assert "as the trainer will" in words(app)
    app.button(f"report_ask_{version.id}").click().run()
    (report,) = list_data_reports(site, version.id)
    assert (report.question.context, report.question.micro_batch) == (256, 4)
    assert "No worker serves the queue" in words(app)
    assert f"stop_{report.job_id}" in {button.key for button in app.button}
    do_job(site, report.job_id)
    app = open_report(version)
    assert "Every row has something to train on" in words(app)
    assert {metric.label: metric.value for metric in app.metric}["One epoch"] == "2 steps"
    sample, *_ = [sample for sample in read_samples(site, get_data_report(site, report.id)) if sample.group == "first"]
    (tokens, classes), *_ = marks(app)
    assert [mark == "trained" for mark in classes] == sample.pieces[0].trained
    coloured = "".join(token for token, mark in zip(tokens, classes, strict=True) if mark == "trained")
    assert "said·clerk" in coloured.replace(" ", "·")
    assert "What" not in coloured


def test_hostile_rows_are_text(site: Context) -> None:
    version = imported(site, [*ROWS, *HOSTILE], name=EVIL[:60])
    view = request_data_report(site, version.id, person=LOCAL, context=256)
    do_job(site, view.job_id)
    app = open_report(version)
    for details in ("Duplicates", "Odd rows", "Characters", "Languages", "Packing", "Leakage", "Benchmarks"):
        app.segmented_control(f"report_details_{view.id}").set_value(details).run()
        assert not app.exception
        assert not app.error
        for drawn in (*app.markdown, *app.caption, *app.subheader):
            assert "](http://evil" not in str(drawn.value)
            assert "<script>" not in str(drawn.value)
        assert not any(getattr(element.proto, "allow_html", False) for element in app.markdown)
    app.segmented_control(f"report_details_{view.id}").set_value("Characters").run()
    assert "⟨1b⟩" in "".join(str(code.value) for code in app.code), "a character that nobody sees is shown as its code"
    app.segmented_control(f"report_group_{view.id}").set_value("longest").run()
    assert all(len(tokens) <= 2400 for tokens, _ in marks(app))
    assert "tokens are not shown" in words(app)


def test_a_failed_report_gives_the_reason_and_can_be_run_again(site: Context, scenario: Scenario) -> None:
    version = imported(site, ROWS)
    scenario.tokenizer("gone")
    view = request_data_report(site, version.id, person=LOCAL, source="gone")
    do_job(site, view.job_id)
    app = open_report(version)
    assert "The report failed" in app.error[0].value
    app.button(f"report_ask_{version.id}").click().run()
    assert len(list_data_reports(site, version.id)) == 2


def test_the_rows_of_a_finding_are_dropped_by_a_click(site: Context) -> None:
    version = imported(site, [*ROWS, ROWS[3], ROWS[4]])
    view = request_data_report(site, version.id, person=LOCAL, context=256)
    do_job(site, view.job_id)
    app = open_report(version)
    assert "2 rows repeat another one" in words(app)
    app.button(f"report_drop_{view.id}_duplicates").click().run()
    newest = get_dataset(site, "sayings").versions[0]
    do_job(site, newest.job_id)
    assert version_of_job(site, str(newest.job_id)).rows == 20


def test_a_report_is_deleted_by_a_click(site: Context) -> None:
    version = imported(site, ROWS)
    view = request_data_report(site, version.id, person=LOCAL, context=256)
    do_job(site, view.job_id)
    app = open_report(version)
    app.button(f"report_delete_{view.id}").click().run()
    assert list_data_reports(site, version.id) == []
    assert "as the trainer will" in words(app)


def test_the_launch_page_shows_the_findings_of_a_report(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    byte_tokenizer().save_pretrained(site.artifacts.path("tokenizers/pieces"))
    texts = [{"text": f"Clerk {n % 5} counts {n * n} coins and {n} hats."} for n in range(60)]
    done(site, queue_import(site, "coins", [*texts, texts[0]], kind="text", val_fraction=0.1))
    config = make_config(dataset="coins")

    def known(**changes: object) -> str:
        return known_findings(resolve_parts(site, config.model_copy(update=changes)).report)

    assert known() == ""
    view = request_data_report(site, "coins", person=LOCAL, source="pieces", context=config.context)
    do_job(site, view.job_id)
    assert "The data report has" in known()
    assert "1 row repeats another one" in known()
    assert known(context=16) == ""
