"""The planner's page: useful on the first day, the same numbers as the command line, and a study from preview to
law.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.domain.scaling.study import format_budget
from backend.domain.wording import short
from backend.services.context import LOCAL, Context
from backend.services.scaling.studies import launch_study, list_studies
from pages.components.scaling.charts import Dot, frontier_chart, log_axis, log_ticks
from tests.support.command_line import roundhouse
from tests.support.opening import cells, figures, open_page, words
from tests.support.scaling_world import STUDY, finish_by_law, make_text
from tests.support.scenario import Scenario
from tests.support.settings import named_installation

SHELL = Path(__file__).resolve().parents[2] / "pages" / "shell.py"


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """An installation that pages and the command line find by the environment."""
    with named_installation(monkeypatch, home, ROUNDHOUSE_DEVICE_HOUR_PRICE="2.5") as context:
        yield context


def open_planner(**query: str) -> AppTest:
    return open_page("build/planner.py", **query)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: str(metric.value) for metric in app.metric}


def test_a_new_installation_has_a_plan_with_its_source_and_a_next_step(site: Context) -> None:
    app = open_planner()
    assert not app.error, words(app)
    shown = metrics(app)
    assert {"Parameters", "Tokens", "Steps", "Learning rate", "Expected loss", "Time"} <= set(shown)
    assert shown["Time"] == "–"
    assert "MassiveText" in words(app)
    use = next(button for button in app.button if button.key == "plan_use")
    assert use.disabled
    assert "Choose a dataset and a tokenizer" in use.label


def test_a_plan_defaults_to_the_newest_tokenizer_and_its_text_and_both_can_be_cleared(scenario: Scenario) -> None:
    scenario.parts()
    app = open_planner()
    assert (app.selectbox(key="dataset").value, app.selectbox(key="tokenizer").value) == ("tales", "pieces")
    app.selectbox(key="dataset").set_value(None).run()
    assert app.selectbox(key="dataset").value is None
    assert next(button for button in app.button if button.key == "plan_use").label == "Choose a dataset to launch this"


def test_the_page_and_the_command_line_agree(scenario: Scenario) -> None:
    scenario.parts()
    app = open_planner(flops="1e17", dataset="tales", tokenizer="pieces", context="64")
    printed = roundhouse("plan", "--flops", "1e17", "--dataset", "tales", "--tokenizer", "pieces", "--context", "64")
    shown = metrics(app)
    assert shown["Parameters"] == short(printed["parameters"])
    assert shown["Tokens"] == short(printed["tokens"])
    assert shown["Steps"] == f"{printed['steps']:,}"
    assert shown["Learning rate"] == f"{printed['learning_rate']:g}"
    assert shown["Expected loss"] == (f"{printed['loss']['value']:.3f}" if printed["loss"]["believable"] else "–")
    for note in printed["notes"]:
        assert note.split(" ")[0] in words(app)
    assert printed["run"]["max_steps"] == printed["steps"]


def test_a_plan_is_used_by_the_launch_page(scenario: Scenario) -> None:
    scenario.parts()
    app = open_planner(flops="1e13", dataset="tales", tokenizer="pieces", context="64")
    steps = metrics(app)["Steps"]
    next(button for button in app.button if button.key == "plan_use").click().run()
    assert not app.exception
    assert app.title[0].value == "Launch"
    assert f"{app.session_state['launch_max_steps']:,.0f}" == steps
    assert next(button for button in app.button if button.key == "launch_go").label == "Launch", words(app)


def test_money_without_a_rate_and_a_law_without_runs_are_explained(site: Context) -> None:
    app = open_planner(budget="Money")
    assert "no run or probe" in app.error[0].value
    own = open_planner(law="Your own finished runs")
    assert "a dataset and a tokenizer" in own.error[0].value


def test_a_budget_below_every_law_shows_no_empty_chart(site: Context) -> None:
    app = open_planner(budget="FLOPs", flops="1e10")
    assert "no better than chance" in app.info[0].value
    assert "can still learn" in app.info[0].value


def test_laws_are_listed_with_constants_and_sources(site: Context) -> None:
    app = open_planner(view="Laws")
    assert [row["A"] for row in cells(app)] == ["482.01", "406.4", "406.4"]
    assert "2404.10102" in words(app).replace("\\", "")


def test_a_study_without_data_names_what_is_missing(site: Context) -> None:
    assert "needs a text dataset" in words(open_planner(view="Studies"))


def test_a_study_is_previewed_and_launched_from_the_page(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    app = open_planner(view="Studies")
    assert "15 runs" in words(app)
    assert len(cells(app)) == 15
    app.text_input(key="study_budgets").set_value("1e13, oops").run()
    assert "budgets" in app.error[0].value
    app.text_input(key="study_budgets").set_value("1e13, 1e14").run()
    next(button for button in app.button if button.key == "study_launch").click().run()
    assert not app.exception
    (study,) = list_studies(site)
    assert study.num_launched == study.num_planned == 10
    assert "0 of 10 runs finished, 10 waiting or running" in open_planner(study=study.id).get("progress")[0].proto.text


def test_a_finished_study_shows_its_profiles_its_law_and_a_link_to_plan_with_it(site: Context) -> None:
    Scenario(site).parts()
    make_text(site)
    study = launch_study(site, STUDY, person=LOCAL)
    finish_by_law(site, study)
    app = open_planner(study=study.id)
    assert not app.error, words(app)
    assert {"E", "A", "B", "alpha", "beta"} <= set(metrics(app))
    assert "optimal size grows as C" in words(app).replace("\\", "")
    assert set(figures(app)) == {
        "Loss against parameters for each budget",
        "Loss against training compute: scaling laws and your runs",
    }
    printed = roundhouse("plan", "show", study.name)
    assert metrics(app)["alpha"] == f"{printed['law']['constants']['alpha']['value']:.4g}"
    assert "sizes" in words(open_planner(view="Studies"))
    own = open_planner(
        law="Your own finished runs", dataset="tales", tokenizer="pieces", context="64", flops="1e14", budget="FLOPs"
    )
    assert not own.error, words(own)
    assert metrics(own)["Expected loss"] != "–"


def test_a_deleted_study_is_an_error_message(site: Context) -> None:
    app = open_planner(study="gone")
    assert "gone" in app.error[0].value


def test_a_single_run_has_a_readable_axis() -> None:
    axis = log_axis([2.3e11], title="Training FLOPs", write=format_budget)
    assert axis.low < 2.3e11 < axis.high
    assert len(axis.ticks) >= 2
    assert "first" in frontier_chart([], [Dot(2.3e11, 3.8, "first")])


def test_ticks_are_round_and_few() -> None:
    assert log_ticks(2e5, 8e5) == pytest.approx([2e5, 5e5])
    assert log_ticks(1e12, 1e18) == pytest.approx([1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18])
    assert 3 <= len(log_ticks(1e10, 1e29)) <= 8


def test_a_number_out_of_bounds_is_said_and_gives_no_plan(site: Context) -> None:
    """The field went back to its last value without a word, and `1e5` of context was 1."""
    app = open_planner(budget="FLOPs", flops="1e15")
    assert metrics(app)
    assert app.number_input(key="context").proto.format == "%.0f"
    app.number_input(key="context").set_value(1e5).run()
    assert not app.exception
    assert metrics(app)
    app.number_input(key="context").set_value(2.0).run()
    assert "2 is less than 8." in words(app).replace("\\", "")
    assert not metrics(app)
    assert "Correct the fields to see the plan." in words(app)
