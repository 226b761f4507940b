"""Load tests: started by the form, drawn with charts, and compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from backend import bootstrap
from backend.domain.serving.upstream import Upstream
from backend.services.context import LOCAL, Context
from backend.services.serving.deployments import deploy, stop_endpoint
from backend.services.serving.load_tests import find_load_job
from backend.services.serving.upstreams import connect_upstream
from backend.settings import PROJECT
from pages.components import visitor
from tests.support.fake_api import serve_api
from tests.support.opening import words
from tests.support.serving.serving_world import ServingWorld
from tests.support.serving.stored_traffic import store_load_test


@pytest.fixture(autouse=True)
def _pages_use_the_test_context(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(visitor, "get_context", lambda: ctx)
    ServingWorld(ctx).deploy()
    yield
    bootstrap.get_context.cache_clear()


def draw() -> AppTest:
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page("serve/load_tests.py")
    app.run()
    assert not app.exception
    return app


def test_the_form_starts_a_job_and_says_what_is_wrong_with_a_field(ctx: Context) -> None:
    app = draw()
    app.text_input(key="load_users").set_value("1, 8,").run()
    assert any("Takes about 1 min 20 s" in caption.value for caption in app.caption), (
        "two levels, each through the gateway and directly"
    )
    app.text_input(key="load_users").set_value("1; 8").run()
    assert "“1; 8” is not a whole number." in words(app).replace("\\", "")
    assert app.button(key="load_start").disabled
    app.segmented_control(key="load_kind").set_value("Rate (open loop)").run()
    app.number_input(key="load_rate").set_value(3.0)
    app.number_input(key="load_duration_s").set_value(5)
    app.text_input(key="load_prompt_words").set_value("48, 48, 500")
    app.button(key="load_start").click().run()
    assert not app.exception
    job = find_load_job(ctx, "tales")
    assert job is not None
    assert job.is_active
    assert f"stop_{job.id}" in [button.key for button in app.button]


def test_another_server_is_loaded_through_the_gateway_alone(ctx: Context) -> None:
    with serve_api() as api:
        connect_upstream(ctx, name="far", upstream=Upstream.read({"url": api.url, "model": "qwen"}), person=LOCAL)
        app = draw()
        app.selectbox(key="load_endpoint").select("far").run()
        target = next(box for box in app.selectbox if box.label == "Target")
        assert (target.options, target.value) == (["Gateway"], "Gateway")
        app.button(key="load_start").click().run()
        assert not app.exception
    job = find_load_job(ctx, "far")
    assert job is not None
    assert job.is_active


def test_an_endpoint_that_answers_is_chosen_before_one_that_is_stopped(ctx: Context) -> None:
    deploy(ctx, checkpoint_id=ServingWorld(ctx).checkpoint("ash"), name="asleep", person=LOCAL)
    stop_endpoint(ctx, "asleep", person=LOCAL)
    assert draw().selectbox(key="load_endpoint").value == "tales"


def test_a_result_is_drawn_with_its_figures_and_compared_with_another(ctx: Context) -> None:
    slow, fast = (store_load_test(ctx, "tales", speed=speed) for speed in (1.0, 2.0))
    app = draw()
    assert len(app.get("plotly_chart")) == 5
    app.selectbox(key="load_result").select(fast).run()
    app.selectbox(key="load_compared").select(slow).run()
    assert not app.exception
    changes = app.table[-1].value.iloc[0].to_dict()
    assert (changes["Tokens/s"], changes["First token p50"]) == ("\\+100\u00a0%", "\\-50\u00a0%")
    assert {button.proto.label for button in app.get("download_button")} == {"CSV", "JSON"}
