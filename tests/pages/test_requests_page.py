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
from backend.domain.wording import shorten
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.deployments import deploy
from backend.services.serving.request_log.policies import set_log_policy
from backend.services.serving.usage import UsageRow, add_usage
from backend.services.tokenizers.sources import TokenizerSource
from backend.services.tokenizers.tokenization import Token, Tokenization
from backend.settings import PROJECT
from pages.components import visitor
from pages.components.serving import requests
from pages.components.serving.requests import TRAFFIC_OF
from tests.support.opening import strips
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


def listed(app: AppTest) -> list[str]:
    """Return the ids of the requests of the page."""
    return [
        str(button.key).removeprefix("request_page_") for button in app.button if "request_page_" in str(button.key)
    ]


def test_requests_are_paged_filtered_and_opened_in_their_place() -> None:
    app = draw(endpoint="tales")
    assert len(listed(app)) == 25
    app.button(key="requests_older").click().run()
    assert len(listed(app)) == 5
    assert app.button(key="requests_older").disabled
    app.text_input(key="text").set_value("nowhere").run()
    assert not listed(app)
    app.button(key="clear_filters").click().run()
    assert len(listed(app)) == 25
    assert (app.selectbox(key="endpoint").value, app.text_input(key="text").value) == (None, "")
    app.text_input(key="text").set_value("r07").run()
    assert listed(app) == ["r07"]
    app.button(key="request_page_r07").click().run()
    assert "r07" in app.table[0].value.to_string()
    assert listed(app) == ["r07"], "the list and its filter stay"
    assert app.query_params["request"] in ("r07", ["r07"])
    app.button(key="request_page_r07").click().run()
    assert not app.table
    assert "request" not in app.query_params


def test_a_row_tells_seconds_and_why_the_answer_ended(ctx: Context) -> None:
    add_usage(
        ctx, [UsageRow("last", "tales", None, None, 3, 5, 5.0, 9.0, "finished", ctx.now(), finish_reason="length")]
    )
    app = draw()
    assert "finished: length" in "".join(str(part.value) for part in app.markdown).replace("\\", "")
    assert app.button(key="request_page_last").label.count(":") == 2


def test_filters_are_in_the_address_and_a_request_outside_of_them_is_shown_above() -> None:
    app = draw(endpoint="tales", text="r07", request="r08", span="7 days")
    assert (app.selectbox(key="endpoint").value, app.selectbox(key="span").value) == ("tales", "7 days")
    assert listed(app) == ["r07"]
    assert "r08" in app.table[0].value.to_string()
    app.button(key="close_request_page").click().run()
    assert not app.table
    assert "There is no endpoint “nowhere”" in draw(endpoint="nowhere").warning[0].value.replace("\\", "")


def test_texts_of_a_request_are_split_by_the_tokenizer_of_its_checkpoint(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [toggle for toggle in draw(request="r00").toggle if toggle.label == "Tokens"], "no checkpoint is known"
    source = TokenizerSource("checkpoint:c", "oak", "checkpoint", "c", "bases/oak", 300)
    split = Tokenization(
        source, [Token(1, HOSTILE, "piece", "text"), Token(2, "E2", "x", "byte")], HOSTILE, HOSTILE, 1, False
    )
    monkeypatch.setattr(requests, "tokenizer_of", lambda *_: source)
    monkeypatch.setattr(requests, "tokenize", lambda *_: split)
    app = draw(request="r00")
    app.toggle(key="request_tokens_r00").set_value(True).run()
    assert strips(app) == [[shorten(HOSTILE, 60), "E2"]] * 2
    assert any("user · 2 tokens" in caption.value for caption in app.caption)
    assert all("](http" not in str(element.value) for element in (*app.markdown, *app.caption))


def test_requests_refused_in_a_loop_are_one_line_and_are_told_on_the_endpoints_page(ctx: Context) -> None:
    """The page said "Failed 0" of 301 requests, 300 of which were refused."""
    refused = UsageRow(
        "many", "tales", None, None, 0, 0, None, 1.0, "refused", ctx.now(), finish_reason="invalid_value"
    )
    add_usage(ctx, [replace(refused, requests=280)])
    app = draw(endpoint="tales")
    assert "280 refused: invalid value" in {str(cell.value).replace("\\", "") for cell in app.markdown}
    facts = draw(request="many").table[0].value.to_string()
    assert "280 requests of this client, refused alike" in facts
    assert "Device time" not in facts
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page("serve/endpoints.py")
    app.query_params["name"] = "tales"
    app.run()
    assert {metric.label: metric.value for metric in app.metric}["Failed / refused, 1 h"] == "0 / 280"


def test_requests_for_what_there_is_not_say_what_was_asked_for_or_that_the_key_was_wrong(ctx: Context) -> None:
    """An unknown model was "(unknown)" wherever it was shown, and a wrong key was nowhere."""
    row = UsageRow("u", "**gpt**-4\0" + "x" * 200, None, None, 0, 0, None, 1.0, "refused", ctx.now())
    unknown = replace(row, finish_reason="model_not_found")
    wrong_key = replace(row, id="w", endpoint="", finish_reason="invalid_api_key")
    secret = replace(unknown, id="s", endpoint="sk-123456")
    add_usage(ctx, [unknown, wrong_key, secret])
    app = draw(request="u")
    facts = app.table[0].value.to_string()
    shown = (" ".join(str(part.value) for part in app.markdown) + facts).replace("\\", "")
    for text in (
        "**gpt**-4\ufffdxxx",
        "xxx… (no such endpoint)",
        "refused: no such model",
        "refused: wrong key, or none",
    ):
        assert text in shown, text
    assert "(a key) (no such endpoint)" in shown
    assert "sk-1" not in shown
    assert "x" * 81 not in shown


def test_hostile_text_is_drawn_as_text() -> None:
    app = draw(request="r00")
    assert [text.value for text in app.text] == [HOSTILE, HOSTILE]
    assert not any("evil" in str(element.value).replace("evil/x", "") for element in app.caption)
    assert all("](http" not in element.value for element in app.markdown), "the row's beginning of it is escaped"
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


def test_the_review_lists_what_gives_rows_with_its_question_and_leads_to_the_dataset_and_a_run(ctx: Context) -> None:
    """Answers that were cut off stood in the list with an open box, and a tool's result stood for its question."""
    question = {"role": "user", "content": "How warm is it?"}
    for name, reason, messages in (
        ("cut", "length", [{"role": "user", "content": "Tell me everything."}]),
        ("tool", "stop", [question, {"role": "tool", "content": "18 C", "tool_call_id": "1"}]),
    ):
        body = LoggedBody("chat", {}, messages)
        body.add("It is warm")
        row = UsageRow(name, "tales", None, None, 3, 5, 5.0, 9.0, "finished", ctx.now(), logged=body)
        add_usage(ctx, [replace(row, finish_reason=reason)])
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page("serve/requests.py")
    app.session_state[TRAFFIC_OF] = ("tales", ())
    app.run()
    boxes = {str(box.key) for box in app.checkbox}
    assert ("traffic_out_tool" in boxes, "traffic_out_cut" in boxes) == (True, False)
    assert "How warm is it?" in [text.value for text in app.text]
    app.session_state[TRAFFIC_OF] = ("tales", ())  # a run of the whole page closes the dialog
    app.button(key="traffic_make").click().run()
    links = {link.proto.label: link.proto.query_string for link in app.get("page_link")}
    assert links["See the dataset"].startswith("dataset=")
    assert "base=" in links["Train on it"]


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
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page("serve/endpoints.py")
    app.query_params["name"] = "tales"
    app.run()
    assert "log_mode_tales" not in app.session_state
    assert any("deployed without an account" in caption.value for caption in app.caption)


def test_who_sees_not_the_requests_of_everyone_is_told_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engineer read that no endpoint had had a request."""
    told = "Those with your keys, and those of endpoints that you deployed."
    assert told not in [caption.value for caption in draw().caption]
    monkeypatch.setattr(visitor, "current_person", lambda: Person("ben", "Ben", "engineer"))
    app = draw()
    assert not listed(app)
    assert told in [caption.value for caption in app.caption]
