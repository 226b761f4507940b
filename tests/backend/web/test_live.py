"""The routes that browsers poll: signed, small, whole once and deltas after."""

from __future__ import annotations

import dataclasses
import gzip
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.states import Status
from backend.services.browser_assets import plotly_url
from backend.services.context import LOCAL, Context
from backend.services.metrics import curves
from backend.services.metrics.curves import FRESH_S, CurveCache
from backend.services.metrics.points import MAX_POINTS, add_points
from backend.services.people.accounts import add_user
from backend.services.people.sessions import COOKIE, sign_in
from backend.services.training.live import token_for_runs
from backend.services.training.views import RunView
from backend.web.live import live_routes
from tests.support.installation import wait_until
from tests.support.run_world import claim, end, points, report
from tests.support.scenario import Scenario


@pytest.fixture
def run(scenario: Scenario) -> RunView:
    """A queued run."""
    return scenario.run(name="<b>bold</b>")


@pytest.fixture
def client(ctx: Context) -> Iterator[TestClient]:
    """The routes alone."""
    with TestClient(Starlette(routes=live_routes(lambda: ctx))) as client:
        yield client


def poll(client: TestClient, ctx: Context, run: RunView, after: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a run's points as a browser does."""
    token = token_for_runs(ctx, [run.id], person=LOCAL)
    answer = client.get("/live/points", params={"token": token, "after": json.dumps({run.id: after} if after else {})})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["runs"][run.id])


def test_curves_of_runs_without_viewers_are_evicted(ctx: Context, scenario: Scenario, run: RunView) -> None:
    others = [scenario.run(name=f"run {n}") for n in range(3)]
    cache = CurveCache(max_held=15)
    for one in (run, *others):
        report(ctx, claim(ctx, one), *points(1, 10))
        assert '"steps":[1,2,' in cache.points_json(ctx, one.id, after={}, resets=None)
    assert [key[1] for key in cache._runs] == [others[-2].id, others[-1].id]


def test_a_new_viewer_gets_the_whole_curve_and_then_only_new_points(
    client: TestClient, ctx: Context, run: RunView
) -> None:
    taken = claim(ctx, run)
    report(ctx, taken, *points(1, 10))
    first = poll(client, ctx, run)["curves"]
    assert first["metrics"]["train_loss"]["steps"] == list(range(1, 11))
    assert first["metrics"]["train_loss"]["whole"] is True
    seen = {"resets": first["resets"], "metrics": {"train_loss": 10}}
    assert poll(client, ctx, run, seen)["curves"]["metrics"] == {}
    report(ctx, taken, *points(11, 12))
    newer = wait_until(
        lambda: poll(client, ctx, run, seen)["curves"]["metrics"], what="new points", every_s=FRESH_S / 2
    )
    assert newer["train_loss"] == {
        "whole": False,
        "steps": [11, 12],
        "values": [0.9090909, 0.8333333],
        "times": [10.0, 11.0],
    }


def test_after_a_resume_everything_is_sent_again(client: TestClient, ctx: Context, run: RunView) -> None:
    taken = claim(ctx, run)
    report(ctx, taken, *points(1, 30))
    seen = {"resets": poll(client, ctx, run)["curves"]["resets"], "metrics": {"train_loss": 30}}
    report(ctx, taken, {"type": "resumed", "step": 20}, *points(21, 22))
    curves = wait_until(
        lambda: (c := poll(client, ctx, run, seen)["curves"])["resets"] == 1 and c,
        what="the reset",
        every_s=FRESH_S / 2,
    )
    assert curves["metrics"]["train_loss"]["steps"] == list(range(1, 23))


def test_a_hundred_thousand_points_arrive_downsampled_with_their_extremes(
    client: TestClient, ctx: Context, run: RunView
) -> None:
    rows = [
        MetricsEvent(step=step, time=float(step), values={"train_loss": -99.0 if step == 54_321 else 1.0})
        for step in range(1, 100_001)
    ]
    with ctx.db.write() as session:
        add_points(session, ctx.db, run.id, rows)
    trace = poll(client, ctx, run)["curves"]["metrics"]["train_loss"]
    assert len(trace["steps"]) <= MAX_POINTS
    assert (trace["steps"][0], trace["steps"][-1]) == (1, 100_000)
    assert trace["values"][trace["steps"].index(54_321)] == -99.0


def test_progress_and_status_travel_with_the_points(client: TestClient, ctx: Context, run: RunView) -> None:
    assert poll(client, ctx, run)["state"]["line"] == "Next in the queue"
    taken = claim(ctx, run)
    report(ctx, taken, {"type": "progress", "done": 20, "total": 100, "unit": "step", "rate": 4.0, "time": 1.0})
    time.sleep(FRESH_S)  # all who watch share what is read once in this time
    state = poll(client, ctx, run)["state"]
    assert state["line"] == "step 20 of 100 · 4.0 steps/s · 20 s left"
    assert (state["share"], state["active"]) == (0.2, True)
    end(ctx, taken, Status.FAILED, cause="The disk is full.")
    time.sleep(FRESH_S)
    state = poll(client, ctx, run)["state"]
    assert (state["status"], state["active"], state["line"]) == ("failed", False, "The disk is full.")


@pytest.mark.parametrize("token", ["", "forged", "eyJydW5zIjoiYSJ9.abc.def"])
def test_points_need_a_token_of_this_installation(client: TestClient, run: RunView, token: str) -> None:
    assert client.get("/live/points", params={"token": token}).status_code == 403
    assert client.get("/live/overview", params={"token": token}).status_code == 403


def test_a_token_opens_the_runs_it_names_and_no_other(client: TestClient, ctx: Context, run: RunView) -> None:
    other = Scenario(ctx).run(name="other")
    token = token_for_runs(ctx, [other.id], person=LOCAL)
    answer = client.get(
        "/live/points", params={"token": token, "after": json.dumps({run.id: {"resets": 0, "metrics": {}}})}
    )
    assert list(answer.json()["runs"]) == [other.id]


@pytest.mark.parametrize(
    "after", ["[]", "{", '{"a": 1}', '{"a": {"resets": null, "metrics": {}}}', '{"a": {"resets": 0, "metrics": 5}}']
)
def test_an_invalid_request_is_refused(client: TestClient, ctx: Context, run: RunView, after: str) -> None:
    token = token_for_runs(ctx, [run.id], person=LOCAL)
    answer = client.get("/live/points", params={"token": token, "after": after})
    assert answer.status_code == 422
    assert "after" in answer.json()["error"]


def test_the_overview_lists_active_runs_and_draws_a_sparkline(client: TestClient, ctx: Context, run: RunView) -> None:
    waiting = Scenario(ctx).run(name="waiting")
    report(ctx, claim(ctx, run), *points(1, 5))
    answer = client.get("/live/overview", params={"token": token_for_runs(ctx, [run.id], person=LOCAL)}).json()
    assert answer["active"] == [run.id, waiting.id]
    assert answer["queues"]["train"] == {"queued": 1, "running": 1}
    assert answer["runs"][run.id]["spark"] == [10.0, 5.0, 3.33333, 2.5, 2.0]


def test_plotly_is_served_packed_and_kept_by_browsers(client: TestClient) -> None:
    with client.stream("GET", plotly_url(), headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert len(raw) < 2_000_000
    hint, _, script = gzip.decompress(raw).partition(b"\n")
    assert hint == b"//# allFunctionsCalledOnLoad"
    assert script.startswith(b"/**\n* plotly.js")
    again = client.get(plotly_url(), headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert client.get(plotly_url(), headers={"accept-encoding": "identity"}).headers.get("content-encoding") is None


@pytest.mark.parametrize(
    "after",
    [
        "Infinity",
        "[" * 5000,
        '{"x": {"resets": Infinity, "metrics": {}}}',
        '{"x": {"resets": 1, "metrics": {"a": 1e999}}}',
        "7",
    ],
)
def test_a_malformed_request_is_refused(client: TestClient, ctx: Context, run: RunView, after: str) -> None:
    answer = client.get("/live/points", params={"token": token_for_runs(ctx, [run.id], person=LOCAL), "after": after})
    assert answer.status_code == 422
    assert "after" in answer.json()["error"]


def test_samples_are_read_step_by_step_and_unchanged(client: TestClient, ctx: Context, run: RunView) -> None:
    samples = [
        {"type": "sample", "step": step, "prompt": "**p**", "completion": f"<img src=x> {step}"} for step in (10, 20)
    ]
    report(ctx, claim(ctx, run), *samples)
    token = token_for_runs(ctx, [run.id], person=LOCAL)
    query = {"token": token, "run": run.id}
    assert client.get("/live/samples", params=query).json() == {"steps": [10, 20]}
    assert client.get("/live/samples", params={**query, "step": 20}).json() == {
        "samples": [{"prompt": "**p**", "completion": "<img src=x> 20"}]
    }
    assert client.get("/live/samples", params={**query, "step": "-1"}).status_code == 422
    assert client.get("/live/samples", params={**query, "run": Scenario(ctx).run(name="other").id}).status_code == 403


def test_every_point_of_the_runs_in_a_token_is_saved_as_a_table(client: TestClient, ctx: Context, run: RunView) -> None:
    report(ctx, claim(ctx, run), *points(1, 3))
    answer = client.get("/live/points.csv", params={"token": token_for_runs(ctx, [run.id], person=LOCAL)})
    assert "attachment" in answer.headers["content-disposition"]
    assert answer.text.splitlines()[1] == f"{run.id},<b>bold</b>,train_loss,1,1001.0,10.0"
    assert client.get("/live/points.csv", params={"token": "forged"}).status_code == 403


def test_the_palette_finds_a_run_by_its_name(client: TestClient, run: RunView) -> None:
    answer = client.get("/live/search", params={"q": "BOLD"})
    assert answer.headers["cache-control"] == "no-store"
    (hit,) = answer.json()["hits"]
    assert (hit["kind"], hit["key"], hit["name"]) == ("run", run.id, "<b>bold</b>")


def test_the_palette_finds_nothing_for_who_is_not_of_the_team(ctx: Context, run: RunView) -> None:
    open_to_all = dataclasses.replace(ctx, sign_in=True)
    user = add_user(open_to_all, name="rater", password="a long password", role="rater", person=LOCAL)
    with TestClient(Starlette(routes=live_routes(lambda: open_to_all))) as client:
        assert client.get("/live/search", params={"q": "bold"}).status_code == 403
        cookies = sign_in(open_to_all, user.name, "a long password", address="127.0.0.1", device=None)
        client.cookies.set(COOKIE, cookies.session)
        assert client.get("/live/search", params={"q": "bold"}).status_code == 403


def test_a_viewer_waits_for_no_other_who_reads_new_points(
    ctx: Context, run: RunView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty-five who watch a run would hold as many of the server's threads while one of them reads."""
    cache, has_begun, may_go_on = CurveCache(), threading.Event(), threading.Event()
    held = cache.points_json(ctx, run.id, after={}, resets=None)
    read = curves._refresh

    def read_slowly(*given: Any) -> None:
        has_begun.set()
        may_go_on.wait(10)
        read(*given)

    monkeypatch.setattr(curves, "_refresh", read_slowly)
    time.sleep(FRESH_S)
    other = threading.Thread(target=cache.points_json, args=(ctx, run.id), kwargs={"after": {}, "resets": None})
    other.start()
    assert has_begun.wait(60)
    assert cache.points_json(ctx, run.id, after={}, resets=None) == held
    assert other.is_alive()
    may_go_on.set()
    other.join()
