"""The overview, driven: strip, next steps and results of a filled installation, and of an empty one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from streamlit.errors import StreamlitAPIException

from backend.db.tables import Deployment, Replica
from backend.domain.jobs.states import Status
from backend.domain.wording import plural
from backend.services.context import Context
from pages.components import frame, routes, visitor
from tests.support.filled_installation import LONG, fill
from tests.support.opening import link_tables, open_page, words
from tests.support.scenario import Scenario


def bars(page: object) -> str:
    return "\n".join(bar.proto.text for bar in page.get("progress")).replace("\\", "")  # type: ignore[attr-defined]


def test_the_strip_shows_the_running_job_and_the_load_of_the_machines(site: Context) -> None:
    fill(site)
    page = open_page(routes.OVERVIEW)
    shown = bars(page)
    assert "smol-village-sft" in shown
    assert "step 200 of 1,000" in shown
    for label in ("CPU **62 %**", "GPU **64 %**", "Memory **"):
        assert label in shown
    assert re.search(r"Disk \*\*\d+ %, [\d.]+ [GTM]B free\*\*", shown), "a bar like its neighbours"
    assert "1 of 1 endpoint ready" in words(page)
    assert "Begin with the first step" not in words(page)


def test_an_endpoint_that_answers_is_ready_though_a_replica_is_missing(site: Context, scenario: Scenario) -> None:
    """Of an endpoint whose page said ready, this one said `0 of 1 endpoint ready`; one in an update counted twice."""
    old = scenario.endpoint("tales")
    with site.db.write() as session:
        deployment = session.get_one(Deployment, old)
        session.add(Replica(deployment_id=old, status="ready", internal_token="secret"))
        shared = {"endpoint_id": deployment.endpoint_id, "checkpoint_id": deployment.checkpoint_id}
        session.add(Deployment(**shared, num_replicas=2))
    shown = words(open_page(routes.OVERVIEW))
    assert ("1 of 1 endpoint ready" in shown, "1 replica missing" in shown) == (True, True)


def test_each_next_step_has_one_button_that_leads_there(site: Context) -> None:
    filled = fill(site)
    page = open_page(routes.OVERVIEW)
    buttons = {button.label: button for button in page.button if str(button.key).startswith("step_")}
    assert list(buttons)[:3] == ["See the workers", "See the run", "Vote"]
    buttons["See the run"].click().run()
    assert page.query_params["run"] in (filled.failed, [filled.failed])


def test_finished_runs_that_diverged_are_marked(site: Context, scenario: Scenario) -> None:
    """*Runs* marked them; here they were plainly finished."""
    for name, loss in (("wild", 700.0), ("calm", 1.7)):
        values = {"val_loss": loss, "train_loss": loss}
        point = {"type": "metrics", "step": 100, "time": 1.0, "values": values}
        scenario.run(point, status=Status.FINISHED, name=name)
    lists = [part.proto for part in open_page(routes.OVERVIEW).get("bidi_component")]
    (given,) = [json.loads(part.json) for part in lists if part.component_name == "roundhouse_live_runs"]
    assert {run["name"]: run["useless"] for run in given["runs"]} == {"wild": "diverged", "calm": ""}


def test_a_dismissed_step_goes_and_comes_back_when_asked_for(site: Context) -> None:
    fill(site)
    page = open_page(routes.OVERVIEW)
    next(button for button in page.button if str(button.key).startswith("dismiss_step_Alerts_1")).click().run()
    labels = [button.label for button in page.button if str(button.key).startswith("step_")]
    assert "See the run" not in labels
    page.button(key="restore_steps").click().run()
    labels = [button.label for button in page.button if str(button.key).startswith("step_")]
    assert "See the run" in labels
    assert "restore_steps" not in [button.key for button in page.button]


def test_no_score_stands_without_its_metric_and_interval(site: Context) -> None:
    fill(site)
    page = open_page(routes.OVERVIEW)
    assert "**village-questions-with-choices@1** · Accuracy" in words(page).replace("\\", "")
    rows = link_tables(page)["village-questions-with-choices@1 · Accuracy"]["rows"]
    texts = [[cell["text"] for cell in row["cells"]] for row in rows]
    assert texts[0][:4] == [LONG, "75.0 %", "65.0 to 85.0 %", "first"]
    assert texts[1][3] == "-25.0 points"


def test_the_loss_of_pairs_is_called_as_on_checkpoints(site: Context, scenario: Scenario) -> None:
    base = scenario.checkpoint(run=scenario.run(name="written"), step=1)
    scenario.dataset("pairs", kind="preference")
    config = {"architecture": None, "tokenizer": None, "base": base, "dataset": "pairs", "objective": "simpo"}
    run = scenario.run(status=Status.FINISHED, **config)
    scenario.checkpoint(run=run, step=100, metrics={"val_loss": 0.932})
    (row,) = link_tables(open_page(routes.OVERVIEW))["Best checkpoints"]["rows"]
    assert row["cells"][2]["text"] == "SimPO loss, validation 0.932"


def test_the_log_leads_to_what_happened_and_folds_what_is_older(site: Context) -> None:
    filled = fill(site)
    page = open_page(routes.OVERVIEW)
    log = link_tables(page)["Log"]
    assert len(log["rows"]) == 8
    assert log["fold"] == plural(len(log["folded"]), "earlier event")
    failed = next(row for row in [*log["rows"], *log["folded"]] if row["cells"][1].get("tone") == "bad")
    assert failed["href"] == f"/run?run={filled.failed}"
    assert failed["cells"][1]["text"] == "failed: The loss became NaN at step 10."


def test_an_empty_installation_leads_to_data_and_reports_that_no_worker_runs(site: Context) -> None:
    page = open_page(routes.OVERVIEW)
    assert [button.label for button in page.button if str(button.key).startswith("step_")] == ["Import a dataset"]
    assert "Roundhouse trains language models, evaluates them" in words(page)
    assert "Begin with the first step below" in words(page)
    assert "no worker" in words(page)
    assert "Nothing is running." in words(page)


def test_where_work_was_done_without_a_run_no_first_step_is_spoken_of(site: Context, scenario: Scenario) -> None:
    scenario.campaign("Oak", "Elm")
    assert "Begin with the first step below" not in words(open_page(routes.OVERVIEW))


def test_times_follow_the_clock_while_the_page_stays_open(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that refreshes itself is drawn twice, with two minutes between: the page is drawn anew."""
    fill(ctx)
    minutes, left_as_it_was = [0], []

    def refreshed_later(_every: float) -> Callable[[Callable[[], None]], Callable[[], None]]:
        def draw_twice(draw: Callable[[], None]) -> None:
            draw()
            if not minutes[0]:
                minutes[0] = 2
                with suppress(StreamlitAPIException):  # two elements of one key
                    draw()
                left_as_it_was.append(True)

        return lambda draw: lambda: draw_twice(draw)

    clocked = replace(ctx, now=lambda: ctx.now() + timedelta(minutes=minutes[0]))
    monkeypatch.setattr(visitor, "get_context", lambda: clocked)
    monkeypatch.setattr(frame, "live_part", refreshed_later)
    open_page(routes.OVERVIEW)
    assert minutes == [2]
    assert left_as_it_was == []
