"""The page of prompts: saving versions, comparing them, trying them over endpoints and rows, and making a task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from backend.db.tables import PromptMatrix
from backend.domain.serving.prompt_matrix import MatrixAnswers
from backend.services.context import LOCAL, Context
from backend.services.evaluation.tasks import get_task
from backend.services.serving.prompt_matrices import list_prompt_matrices
from backend.services.serving.prompts import get_prompt, list_team_prompts, save_prompt
from tests.support.filled_installation import HOSTILE_ANSWER, fill
from tests.support.gateway_fixtures import eventually
from tests.support.networks.chat_world import ChatWorld, chat_world
from tests.support.opening import EVIL, assert_sound, open_page, plain_words, words
from tests.support.scenario import Scenario

PAGE = "serve/prompts.py"


@pytest.fixture
def chat(site: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatWorld]:
    """Endpoints behind a gateway, which the pages call."""
    with chat_world(site, "tales", "verse") as chat:
        monkeypatch.setattr("pages.components.visitor.get_context", lambda: chat.ctx)
        yield chat


def test_the_first_prompt_is_saved_under_a_name_and_opened(site: Context) -> None:
    app = open_page(PAGE)
    assert "No prompt yet" in words(app)
    assert app.button(key="save_new_prompt").disabled
    app.text_input(key="new_prompt_name").set_value("retell").run()
    app.text_area(key="new_prompt_text").set_value("Retell {{tale").run()
    app.button(key="save_new_prompt").click().run()
    assert "is not a template" in app.error[0].value
    assert list_team_prompts(site) == []
    app.text_area(key="new_prompt_text").set_value("Retell {{tale}}").run()
    app.button(key="save_new_prompt").click().run()
    assert_sound(app)
    assert app.query_params["prompt"] in ("retell", ["retell"])
    assert [heading.value for heading in app.title] == ["retell"]


def test_a_change_is_saved_as_a_version_with_a_note_and_compared_with_the_one_before(site: Context) -> None:
    save_prompt(site, "retell", {"text": "Retell {{tale}}"}, person=LOCAL)
    app = open_page(PAGE, prompt="retell")
    assert app.button(key="save_version").disabled, "nothing changed"
    key = f"prompt_{get_prompt(site, 'retell').newest.id}"
    app.text_area(key=f"{key}_text").set_value("Retell {{tale}} briefly").run()
    app.text_input(key=f"{key}_note").set_value("brief").run()
    app.button(key="save_version").click().run()
    assert_sound(app)
    assert [(version.number, version.note) for version in get_prompt(site, "retell").versions] == [
        (2, "brief"),
        (1, ""),
    ]
    (difference,) = [code.value for code in app.code if "Retell" in code.value]
    assert "-Retell {{tale}}\n+Retell {{tale}} briefly" in difference
    assert "Version 2 ·" in plain_words(app)


def test_an_older_version_is_in_the_address_and_can_be_brought_back(site: Context) -> None:
    for text in ("one", "two"):
        save_prompt(site, "retell", {"text": text}, person=LOCAL)
    app = open_page(PAGE, prompt="retell", version="1")
    assert app.text_area[1].value == "one"
    assert not app.button(key="save_version").disabled, "the older text is another than the newest"
    app.button(key="save_version").click().run()
    saved = get_prompt(site, "retell")
    assert (saved.newest.number, saved.newest.body.text) == (3, "one")
    assert "version" not in app.query_params
    app = open_page(PAGE, prompt="retell")
    app.selectbox(key="version_retell_3_3").select(2).run()
    assert app.query_params["version"] in ("2", ["2"])
    assert app.text_area[1].value == "two"
    del app.query_params["version"]  # the browser's way back
    app.run()
    assert app.text_area[1].value == "one"
    app = open_page(PAGE, prompt="retell", version="9")
    assert "There are versions 1 to 3" in app.error[0].value.replace("\\", "")


def test_prompts_are_searched_by_name_and_the_address_keeps_the_words(site: Context) -> None:
    for name in ("retell", "summarize"):
        save_prompt(site, name, {"text": "x"}, person=LOCAL)
    app = open_page(PAGE, find="SUMM")
    assert [str(button.key) for button in app.button if str(button.key).startswith("open_")] == ["open_summarize"]


def test_a_prompt_is_tried_on_typed_rows_over_two_endpoints(chat: ChatWorld) -> None:
    save_prompt(chat.ctx, "retell", {"text": "Retell {{tale}}"}, person=LOCAL)
    app = open_page(PAGE, prompt="retell", tab="Try")
    version = get_prompt(chat.ctx, "retell").newest.id
    assert app.button(key="try_prompt_0").disabled
    app.multiselect(key="try_endpoints_retell").set_value(["tales", "verse"]).run()
    app.text_area(key=f"try_rows_{version}").set_value("the mill\nthe sea").run()
    assert app.button(key="try_prompt_0").label == "Try 4 answers"
    app.button(key="try_prompt_0").click()
    clicked = app._tree.get_widget_states()
    for _ in range(2):  # the second click of a double one comes from a page that shows the first button yet
        app._run(clicked)
    eventually(lambda: not list_prompt_matrices(chat.ctx, "retell")[0].is_running)
    app.run()
    assert_sound(app)
    assert [text.value for text in app.text].count("w0 w1 w2") == 4
    assert "tale: the sea" in [text.value for text in app.text]
    (matrix,) = list_prompt_matrices(chat.ctx, "retell")
    assert app.query_params["matrix"] in (matrix.id, [matrix.id])


def test_a_wrong_row_is_named_before_anything_is_tried(chat: ChatWorld) -> None:
    save_prompt(chat.ctx, "retell", {"text": "Retell {{tale}} for {{reader}}"}, person=LOCAL)
    app = open_page(PAGE, prompt="retell", tab="Try")
    version = get_prompt(chat.ctx, "retell").newest.id
    app.text_area(key=f"try_rows_{version}").set_value('{"tale": "x"}').run()
    assert "Line 1 has no reader" in app.error[0].value.replace("\\", "")
    assert app.button(key="try_prompt_0").disabled
    assert not chat.replicas["tales"].bodies


def test_answers_and_rows_are_drawn_as_text(site: Context) -> None:
    filled = fill(site)
    app = open_page(PAGE, prompt=filled.prompt, tab="Try")
    assert_sound_but_for_cells(app)
    texts = [text.value for text in app.text]
    assert HOSTILE_ANSWER.strip() in texts
    assert any(EVIL in text for text in texts)


def test_a_lone_surrogate_is_drawn_as_its_code(site: Context) -> None:
    prompt = save_prompt(site, "retell", {"text": "Retell {{tale}}"}, person=LOCAL)
    values = {"endpoints": ["tales"], "rows": [{"tale": "a\ud800"}], "cells": [{"status": "done", "text": "b\udfff"}]}
    with site.db.write() as session:
        answers = MatrixAnswers.model_validate(values)
        session.add(PromptMatrix(version_id=prompt.newest.id, answers=answers, status="done"))
    app = open_page(PAGE, prompt="retell", tab="Try")
    assert_sound(app)
    assert [text.value for text in app.text] == ["tale: a\\ud800", "b\\udfff"]


def assert_sound_but_for_cells(app: AppTest) -> None:
    assert not app.exception
    assert [error.value.replace("\\", "") for error in app.error] == ["There is no replica."]


def test_a_prompt_becomes_a_task_of_a_dataset(chat: ChatWorld) -> None:
    Scenario(chat.ctx).benchmark("quiz", [{"question": f"Q{n}?", "answer": f"A{n}"} for n in range(3)])
    save_prompt(chat.ctx, "ask", {"text": "Answer: {{question}}"}, person=LOCAL)
    app = open_page(PAGE, prompt="ask", tab="Try")
    version = get_prompt(chat.ctx, "ask").newest.id
    app.text_input(key="prompt_task_name").set_value("ask-quiz").run()
    app.text_input(key="prompt_task_expected").set_value("anser").run()
    box = app.selectbox(key=f"prompt_task_dataset_{version}")
    box.select_index(0).run()
    app.button(key="save_prompt_task").click().run()
    assert "has no column “anser”" in app.error[0].value.replace("\\", "")
    app.text_input(key="prompt_task_expected").set_value("answer").run()
    app.button(key="save_prompt_task").click().run()
    assert_sound(app)
    assert get_task(chat.ctx, "ask-quiz").definition.prompt == "Answer: {{question}}"  # type: ignore[union-attr]
    assert "Saved the task" in words(app)
    save_prompt(chat.ctx, "other", {"text": "x"}, person=LOCAL)
    app.query_params["prompt"] = "other"
    app.run()
    assert "Saved the task" not in words(app)
