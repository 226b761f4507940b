"""The page Runs as a visitor without a browser sees it: filters, columns, folds, views, and many runs at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from backend.db.tables import Run, RunGroup
from backend.domain.jobs.states import Status
from backend.services.context import LOCAL, Context
from backend.services.people.saved_views import list_saved_views
from backend.services.training.imported_runs import import_log
from backend.services.training.run_table import read_run_table
from backend.services.training.runs import set_tags
from backend.services.training.views import RunView, get_run, list_runs
from tests.support.opening import figure, open_page, words
from tests.support.run_world import claim, end
from tests.support.scenario import Scenario

PAGE = "build/runs.py"


@pytest.fixture(autouse=True)
def _runs(site: Context) -> None:
    for name, loss, rate in (("slow", 2.0, 0.001), ("fast", 1.5, 0.01), ("wide", 1.7, 0.1)):
        finished(site, name, loss, learning_rate=rate)


def finished(ctx: Context, name: str, loss: float, **values: Any) -> RunView:
    """A finished run with this val_loss."""
    run = Scenario(ctx).run(
        {"type": "metrics", "step": 100, "time": 1.0, "values": {"val_loss": loss, "train_loss": loss}},
        status=Status.FINISHED,
        name=name,
        **values,
    )
    return run


def shown(app: AppTest) -> dict[str, Any]:
    """What the table's component was given."""
    tables = [part.proto for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_run_table"]
    return dict(json.loads(tables[0].json)) if tables else {"rows": [], "columns": []}


def names(app: AppTest) -> list[str]:
    """The names of the rows, folds by their title."""
    return [row.get("name") or row["title"] for row in shown(app)["rows"]]


def titles(app: AppTest) -> list[str]:
    """The titles of the columns."""
    return [column["title"] for column in shown(app)["columns"]]


def test_the_table_has_the_newest_first_and_the_metric_of_its_objective(site: Context) -> None:
    app = open_page(PAGE)
    assert names(app) == ["wide", "fast", "slow"]
    assert titles(app)[:5] == ["Name", "Status", "Curve", "Objective", "Best validation loss · Pretrain"]
    assert shown(app)["rows"][0]["cells"][3] == "1.7000"
    assert "3 runs" in words(app)


def test_every_objective_has_a_column_of_its_metric(site: Context) -> None:
    """Runs of KTO and ORPO had an empty row beside the losses of Pretrain, SFT and DPO."""
    objectives = ["sft", "dpo", "kto", "orpo"]
    for objective in objectives:
        run = finished(site, objective, 0.5)
        with site.db.write() as session:
            session.get_one(Run, run.id).objective = objective
    app = open_page(PAGE)
    best = [title for title in titles(app) if title.startswith("Best validation loss")]
    assert [title.rpartition(" · ")[2] for title in best] == ["Pretrain", "SFT", "DPO", "KTO", "ORPO"]
    places = [titles(app).index(title) - 1 for title in best]
    assert all(any(row["cells"][place] for place in places) for row in shown(app)["rows"])


def test_finished_runs_that_diverged_are_marked(site: Context) -> None:
    finished(site, "wild", 700.0)
    app = open_page(PAGE)
    assert {row["name"]: row["useless"] for row in shown(app)["rows"]} == {
        "wild": "diverged",
        "wide": "",
        "fast": "",
        "slow": "",
    }


def test_a_filter_and_columns_of_the_address_are_kept(site: Context) -> None:
    app = open_page(PAGE, filter="lr < 0.05", columns="learning_rate,lr,nosuch,seed", sort="learning_rate")
    assert names(app) == ["slow", "fast"]
    assert titles(app) == ["Name", "Learning rate", "Seed"]
    assert app.text_input(key="filter").value == "lr < 0.05"
    assert [row["cells"] for row in shown(app)["rows"]] == [["0.001", "1"], ["0.01", "1"]]


def test_the_field_of_a_filter_is_a_column(site: Context) -> None:
    assert "Learning rate" not in titles(open_page(PAGE))
    assert "Learning rate" in titles(open_page(PAGE, filter="lr < 0.05"))
    assert "Learning rate" not in titles(open_page(PAGE, filter="lr < 0.05", columns="seed")), "columns were chosen"


def test_a_wrong_filter_is_marked_and_the_rest_of_the_page_stays(site: Context) -> None:
    app = open_page(PAGE, filter="lr < 1 and lerning_rate < 2")
    assert "Did you mean learning\\_rate?" in app.error[0].value
    assert app.code[0].value.splitlines() == ["lr < 1 and lerning_rate < 2", "           " + "^" * 12]
    assert names(app) == []
    app.text_input(key="filter").set_value("lr < 0.05").run()
    assert names(app) == ["fast", "slow"]
    assert not app.error


def test_nothing_passes_a_filter_and_an_unknown_order_is_reported(site: Context) -> None:
    assert "No run passes these filters." in words(open_page(PAGE, filter="lr > 5"))
    near = words(open_page(PAGE, filter="dataset = tal and name = fats")).replace("\\", "")
    assert "No run has dataset tal. Did you mean tales@1?" in near
    assert "No run has name fats. Did you mean fast?" in near
    app = open_page(PAGE, sort="nosuch")
    assert "Runs have no field “nosuch”" in words(app).replace("\\", "")
    assert names(app) == ["wide", "fast", "slow"], "newest first instead"
    assert "Runs have no field" not in words(app.run())


def test_addresses_of_older_versions_still_work(site: Context) -> None:
    run = next(run for run in list_runs(site) if run.name == "fast")
    set_tags(site, run.id, ("my tag",), person=LOCAL)
    app = open_page(PAGE, objective="Pretraining", tags="my tag")
    assert app.text_input(key="filter").value == 'objective = pretrain and tags = "my tag"'
    assert names(app) == ["fast"]
    assert names(open_page(PAGE, find="slo", status="Finished")) == ["slow"]
    assert names(open_page(PAGE, status="Active")) == []
    compared = open_page(PAGE, compare=run.id)
    assert compared.segmented_control(key="show").value == "Curves"
    assert "1 run ticked" in words(compared)


def test_a_sweep_is_one_row_until_it_is_opened(site: Context) -> None:
    with site.db.write() as session:
        group = RunGroup(name="rates", kind="sweep", config={})
        session.add(group)
        session.flush()
        for run in list_runs(site):
            if run.name != "slow":
                session.get_one(Run, run.id).group_id = group.id
    app = open_page(PAGE)
    assert names(app) == ["rates", "slow"]
    (fold, _) = shown(app)["rows"]
    assert "best 1.5000" in fold["cells"]
    opened = open_page(PAGE, open=fold["key"])
    assert names(opened) == ["rates", "wide", "fast", "slow"]
    assert names(open_page(PAGE, group="none")) == ["wide", "fast", "slow"]
    assert names(open_page(PAGE, group="learning_rate")) == ["0.1", "0.01", "0.001"]


def test_a_condition_is_added_by_choosing(site: Context) -> None:
    app = open_page(PAGE, filter="lr < 0.05")
    app.session_state["runs_fields"] = True
    app.run()
    app.selectbox(key="filter_field").set_value("name").run()
    app.text_input(key="filter_value_text").set_value("fast").run()
    app.button(key="filter_add").click().run()
    assert app.text_input(key="filter").value == "lr < 0.05 and name = fast"
    assert names(app) == ["fast"]


def test_ticked_runs_are_tagged_archived_and_deleted_after_a_question(site: Context) -> None:
    ids = {run.name: run.id for run in list_runs(site)}
    app = open_page(PAGE, ticked=f"{ids['slow']},{ids['fast']}")
    assert "2 runs ticked" in words(app)
    app.text_input(key="tags_add_0").set_value("a, b").run()
    app.button(key="runs_tag_go").click().run()
    assert {run.name: run.tags for run in list_runs(site)} == {"wide": (), "fast": ("a", "b"), "slow": ("a", "b")}
    app.session_state["runs_delete"] = True
    app.run()
    assert "**2 runs** with curves, samples, logs are deleted:\n\n- slow\n- fast" in words(app)
    app.button(key="runs_delete_go").click().run()
    assert [run.name for run in list_runs(site)] == ["wide"]
    app = open_page(PAGE, ticked=ids["wide"])
    app.button(key="runs_archive").click().run()
    assert [run.name for run in list_runs(site, archived=True)] == ["wide"]


def test_only_the_runs_that_the_question_named_are_deleted(site: Context, scenario: Scenario) -> None:
    waiting, ids = scenario.run(name="waiting"), {run.name: run.id for run in list_runs(site)}
    app = open_page(PAGE, ticked=f"{ids['slow']},{waiting.id}")
    app.session_state["runs_delete"] = True
    app.run()
    assert "**1 run** with curves, samples, logs are deleted:\n\n- slow" in words(app)
    end(site, claim(site, waiting), Status.FAILED, cause="No memory.")
    app.button(key="runs_delete_go").click().run()
    assert not app.exception
    assert {run.name for run in list_runs(site)} == {"wide", "fast", "waiting"}
    assert app.session_state["runs_delete"] is False, "the next click elsewhere only closed the question"


def test_what_needs_a_run_is_named_and_leads_to_its_page(site: Context, scenario: Scenario) -> None:
    ids = {run.name: run.id for run in list_runs(site)}
    checkpoint = scenario.checkpoint(run=get_run(site, "slow"), step=100)
    with site.db.write() as session:
        session.get_one(Run, ids["fast"]).base_id = checkpoint
    app = open_page(PAGE, ticked=ids["slow"])
    app.session_state["runs_delete"] = True
    app.run()
    assert "- slow: run “fast” needs its checkpoint." in words(app)
    addresses = {link.proto.label: link.proto.query_string for link in app.get("page_link")}
    assert addresses["fast"] == f"run={ids['fast']}"


@pytest.mark.parametrize(("page", "first"), [("2", "slow"), ("9", "wide"), ("-1", "wide"), ("x", "wide")])
def test_the_page_of_the_address_is_drawn(
    site: Context, monkeypatch: pytest.MonkeyPatch, page: str, first: str
) -> None:
    monkeypatch.setattr("pages.components.training.run_table.PAGE_SIZE", 2)
    app = open_page(PAGE, page=page)
    assert names(app)[0] == first


def test_a_metrics_name_is_plain_text_below_a_chart(site: Context) -> None:
    log = b"step,![x](//host/y)\n1,2.5\n9,2.25\n"
    import_log(site, log, filename="theirs.csv", person=LOCAL)
    (name,) = [name for name in read_run_table(site).fields if name.endswith("![x](//host/y)") and "best" not in name]
    app = open_page(PAGE, show="Scatter", x="learning_rate", y=name)
    (said,) = [part.value for part in app.caption if "No run has both" in part.value]
    assert "![x]" not in said
    app = open_page(PAGE, show="Parallel coordinates", axes=f"learning_rate,{name}")
    (said,) = [part.value for part in app.caption if "without a value of" in part.value]
    assert "![x]" not in said


def test_a_view_is_saved_and_opened(site: Context) -> None:
    app = open_page(PAGE, filter="lr < 0.05", columns="seed")
    app.session_state["runs_views"] = True
    app.run()
    app.text_input(key="view_name").set_value("cheap").run()
    app.button(key="view_save").click().run()
    (view,) = list_saved_views(site, "runs", person=LOCAL)
    assert view.query == "filter=lr+%3C+0.05&columns=seed"
    other = open_page(PAGE, filter="lr > 0.05", sort="name", status="Failed")
    assert names(other) == []
    other.session_state["runs_views"] = True
    other.run()
    other.button(key=f"view_{view.id}").click().run()
    assert names(other) == ["fast", "slow"]
    assert titles(other) == ["Name", "Seed"]
    assert other.text_input(key="filter").value == "lr < 0.05"
    assert "sort" not in other.query_params


def test_parallel_coordinates_and_scatter_draw_the_runs_found(site: Context) -> None:
    app = open_page(PAGE, show="Parallel coordinates")
    assert app.multiselect(key="runs_axes").value == ["learning_rate", "pretrain.best_val_loss"]
    drawn = figure(app, "runs_parallel")["data"]
    assert sum(len([y for y in trace["y"] if y is not None]) for trace in drawn) == 6
    assert "<b>fast</b>" in drawn[-1]["customdata"][0], "the best in front"
    app = open_page(PAGE, show="Scatter", filter="lr < 0.05", color="name")
    points = {(trace["name"], trace["x"][0], trace["y"][0]) for trace in figure(app, "runs_scatter")["data"]}
    assert points == {("fast", 0.01, 1.5), ("slow", 0.001, 2.0)}
    app = open_page(PAGE, show="Scatter", filter="lr < 0.05", y="seed", color="pretrain.best_val_loss")
    (trace,) = figure(app, "runs_scatter")["data"]
    bar = trace["marker"]["colorbar"]
    assert (bar["tickvals"], bar["ticktext"]) == ([1.5, 2.0], ["1.5000", "2.0000"])
    assert (trace["marker"]["cmin"], trace["marker"]["cmax"]) == (1.5, 2.0)
