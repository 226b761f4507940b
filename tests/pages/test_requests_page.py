"""Requests: listed by filters, and one in full, with hostile text as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import update
from streamlit.testing.v1 import AppTest

from backend import bootstrap
from backend.db.tables import ApiKey, Usage, User
from backend.domain.serving.request_log import LoggedBody, RequestLogConfig
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.deployments import deploy
from backend.services.serving.request_log.policies import set_log_policy
from backend.services.serving.usage import UsageRow, add_usage
from backend.settings import PROJECT
from pages.components import visitor
from pages.components.serving.traffic_dataset import TRAFFIC_OF
from tests.support.serving.serving_world import ServingWorld

HOSTILE = "<img src=x onerror=alert(1)> ![x](http://evil/x.png) :red[hi]"


@pytest.fixture(autouse=True)
def _pages_use_the_test_context(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(visitor, "get_context", lambda: ctx)
    deploy(ctx, checkpoint_id=ServingWorld(ctx).checkpoint("oak"), name="tales", person=LOCAL)
    set_log_policy(ctx, "tales", RequestLogConfig(mode="bodies"), person=LOCAL)
    for number in range(30):
        body = LoggedBody("chat", {}, [{"role": "user", "content": HOSTILE}])
        body.add(HOSTILE)
        add_usage(
            ctx, [UsageRow(f"r{number:02}", "tales", None, None, 3, 5, 5.0, 9.0, "finished", ctx.now(), logged=body)]
        )
    yield
    bootstrap.get_context.cache_clear()


def draw(**query: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page("serve/requests.py")
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def test_requests_are_paged_filtered_and_opened() -> None:
    app = draw(endpoint="tales")
    assert len(app.table[0].value) == 25
    app.button(key="requests_older").click().run()
    assert len(app.table[0].value) == 5
    assert app.button(key="requests_older").disabled
    app.text_input(key="requests_text").set_value("nowhere").run()
    assert not app.table
    app.text_input(key="requests_text").set_value("r07").run()
    assert len(app.table[0].value) == 1
    app.selectbox(key="requests_open").select("r07").run()
    assert "r07" in app.table[0].value.to_string()


def test_requests_refused_in_a_loop_are_one_line_and_are_told_on_the_endpoints_card(ctx: Context) -> None:
    """The card said "Failed 0" of 301 requests, 300 of which were refused."""
    refused = UsageRow(
        "many", "tales", None, None, 0, 0, None, 1.0, "refused", ctx.now(), finish_reason="invalid_value"
    )
    add_usage(ctx, [replace(refused, requests=280)])
    app = draw(endpoint="tales")
    assert "280 refused: invalid_value" in {str(cell).replace("\\", "") for cell in app.table[0].value["Result"]}
    facts = draw(request="many").table[0].value.to_string()
    assert "280 requests of this client, refused alike" in facts
    assert "Device time" not in facts
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page("serve/endpoints.py").run()
    assert {metric.label: metric.value for metric in app.metric}["Failed / refused, 1 h"] == "0 / 280"


def test_hostile_text_is_drawn_as_text() -> None:
    app = draw(request="r00")
    assert [text.value for text in app.text] == [HOSTILE, HOSTILE]
    assert not any("evil" in str(element.value) for element in (*app.markdown, *app.caption))
    assert "no request" in draw(request="nothing").error[0].value


@pytest.mark.parametrize("page", ["requests", "endpoints"])
def test_a_dataset_that_only_the_owner_may_make_is_refused_in_its_dialog(
    monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setattr(visitor, "current_person", lambda: Person("ben", "Ben", "engineer"))
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page(f"serve/{page}.py")
    app.session_state[TRAFFIC_OF] = ("tales", ())
    app.run()
    assert not app.exception
    assert "deployed without an account" in app.error[0].value


def test_what_only_the_owner_may_do_is_not_offered_to_others_and_the_page_says_why(
    monkeypatch: pytest.MonkeyPatch, ctx: Context
) -> None:
    assert not draw(endpoint="tales").button(key="requests_dataset").disabled
    with ctx.db.write() as session:
        session.add(User(id="ben", name="Ben", role="engineer", password_hash="x"))
        session.flush()
        session.add(ApiKey(id="k", name="app", key_hash="h", hint="abcd", user_id="ben"))
        session.flush()
        session.execute(update(Usage).values(key_id="k"))
    monkeypatch.setattr(visitor, "current_person", lambda: Person("ben", "Ben", "engineer"))
    for button in (
        draw(endpoint="tales").button(key="requests_dataset"),
        draw(request="r00").button(key="request_dataset"),
    ):
        assert button.disabled
        assert "deployed without an account" in button.help
    app = (
        AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
        .switch_page("serve/endpoints.py")
        .run()
    )
    assert "log_mode_tales" not in app.session_state
    assert any("deployed without an account" in caption.value for caption in app.caption)
