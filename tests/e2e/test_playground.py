"""The playground in a browser: four answers side by side, blind, with hostile Markdown; and a tool that is called and
answered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.bootstrap import build_context
from backend.cli.processes import broker_binary
from backend.services.context import LOCAL
from backend.services.serving.prompts import save_prompt
from tests.support.browser import Visitor, visit
from tests.support.filled_installation import HOSTILE_ANSWER
from tests.support.gateway_fixtures import eventually
from tests.support.installation import free_port
from tests.support.networks.chat_world import ChatWorld, chat_world
from tests.support.page_server import page_server
from tests.support.settings import make_settings
from tests.support.workers.workers import process

pytestmark = pytest.mark.timeout(900)

ENDPOINTS = ("oak", "elm", "ash", "fir")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}])
PLACES = """() => ({
  examples: [...document.querySelectorAll('.pg-example')].map(node => node.getBoundingClientRect().bottom),
  composer: document.querySelector('.pg-composer').getBoundingClientRect().top,
  outage: document.documentElement.className,
})"""


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[ChatWorld]:
    """Four endpoints with scripted replicas behind a gateway."""
    home = tmp_path_factory.mktemp("playground")
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(home), migrate=False)
    with chat_world(context, *ENDPOINTS) as chat:
        yield chat
    context.db.engine.dispose(close=False)


@pytest.fixture(scope="module")
def visitor(browser: Browser, chat: ChatWorld) -> Iterator[Visitor]:
    """A visitor of the pages over these endpoints. The broker answers too: the line about an outage takes room."""
    home, port, broker = chat.ctx.artifacts.root.parent, urlsplit(chat.ctx.gateway_url).port, free_port()
    settings = {"ROUNDHOUSE_GATEWAY_PORT": str(port), "REDIS_URL": f"redis://127.0.0.1:{broker}/0"}
    with (
        process([broker_binary(), "--bind", "127.0.0.1", "--port", str(broker), "--save", ""]),
        page_server(home, ROUNDHOUSE_HOST="127.0.0.1", **settings) as server,
        visit(browser, server.url) as person,
    ):
        yield person


def send(tab: Page, text: str) -> None:
    """Write a message and press Enter."""
    tab.get_by_label("Message", exact=True).fill(text)
    tab.get_by_label("Message", exact=True).press("Enter")


def test_four_blind_answers_tell_nothing_run_nothing_and_load_nothing_until_the_vote(
    visitor: Visitor, chat: ChatWorld
) -> None:
    for replica in chat.replicas.values():
        replica.word, replica.tokens = HOSTILE_ANSWER, 1
    tab = visitor.page
    visitor.go("/playground?endpoint=oak")
    for name in ENDPOINTS[1:]:
        tab.get_by_role("combobox", name="Endpoints").fill(name)
        tab.get_by_role("option", name=name, exact=True).wait_for()
        tab.get_by_role("combobox", name="Endpoints").press("Enter")
        visitor.settle()
    tab.keyboard.press("Escape")
    expect(tab.get_by_placeholder("Write a message to 4 endpoints", exact=True)).to_be_visible()
    tab.get_by_text("Blind", exact=True).click()
    send(tab, "Tell me of the river.")  # at once: the message waits for the change
    tab.get_by_role("button", name="D is best").wait_for()
    expect(tab.get_by_placeholder("Write a message to 4 endpoints, blind", exact=True)).to_be_visible()
    answers, turn = tab.locator(".pg-answer"), tab.locator(".pg-turn")
    expect(answers).to_have_count(4)
    tops = answers.evaluate_all("nodes => nodes.map(node => Math.round(node.getBoundingClientRect().y))")
    assert len(set(tops)) == 1, "side by side"
    assert not [name for name in ENDPOINTS if name in turn.inner_text()]
    expect(answers.locator("math")).to_have_count(4)
    assert answers.locator("a, img, script, iframe, object, [onerror], [href], [src]").count() == 0
    assert tab.evaluate("window.evil") is None
    tab.get_by_role("button", name="B is best").click()
    expect(turn).to_contain_text("Your vote: B is best")
    for name in ENDPOINTS:
        expect(turn).to_contain_text(name)
    tab.get_by_role("button", name="Settings").click()
    # after several runs of the page with the menu closed
    expect(tab.get_by_label("Max new tokens")).to_have_value("160")
    tab.keyboard.press("Escape")
    tab.set_viewport_size({"width": 390, "height": 900})
    visitor.settle()
    tab.wait_for_function("document.querySelector('.stMain').scrollWidth <= innerWidth")
    tab.set_viewport_size({"width": 1440, "height": 1000})
    assert visitor.findings == [], "no request left this machine"


@pytest.mark.parametrize("size", [(1280, 1000), (1280, 720), (1440, 900), (390, 844)], ids=str)
def test_no_suggestion_lies_behind_the_bar_of_the_message(visitor: Visitor, size: tuple[int, int]) -> None:
    """The fourth one was half hidden, and nothing told that the page could be scrolled."""
    tab = visitor.page
    tab.set_viewport_size({"width": size[0], "height": size[1]})
    visitor.go("/playground?endpoint=fir")
    expect(tab.locator(".pg-example")).to_have_count(4)
    expect(tab.locator(".pg-meter")).to_be_visible()
    places = tab.evaluate(PLACES)
    assert max(places["examples"]) <= places["composer"], places
    tab.set_viewport_size({"width": 1440, "height": 900})


def test_the_field_fits_its_text_at_another_width(visitor: Visitor) -> None:
    tab = visitor.page
    visitor.go("/playground?endpoint=fir")
    field = tab.get_by_label("Message", exact=True)
    field.fill("The old mill by the river had not turned since the winter. " * 3)
    assert field.evaluate("node => node.scrollHeight <= node.clientHeight")
    rows = field.evaluate("node => node.clientHeight")
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function("rows => document.querySelector('.pg-field').clientHeight > rows", arg=rows)
    assert field.evaluate("node => node.scrollHeight <= node.clientHeight")
    tab.set_viewport_size({"width": 1440, "height": 900})
    tab.wait_for_function("rows => document.querySelector('.pg-field').clientHeight === rows", arg=rows)
    field.fill("")


def test_a_call_of_a_tool_is_shown_and_its_result_continues_the_answer(visitor: Visitor, chat: ChatWorld) -> None:
    replica = chat.replicas["oak"]
    replica.word, replica.tokens, replica.script = None, 3, 'call:weather:{"city": "Graz"}'
    tab = visitor.page
    visitor.go("/playground?endpoint=oak")
    tab.get_by_role("button", name="Settings").click()
    tab.get_by_text("JSON schema and tools").click()
    tab.get_by_label("Tools, in OpenAI's format").fill(TOOLS)
    tab.get_by_label("Tools, in OpenAI's format").press("Tab")
    tab.keyboard.press("Escape")
    send(tab, "Weather in Graz?")
    call = tab.locator(".pg-call")
    expect(call).to_contain_text("Calls weather")
    expect(call).to_contain_text('"city": "Graz"')
    replica.script = "finish"
    tab.get_by_label("Result of weather").fill('{"temperature": 12} <img src=http://evil.example/x.png>')
    tab.get_by_role("button", name="Send result").click()
    expect(tab.locator(".pg-answer").last).to_contain_text("w0 w1 w2")
    expect(tab.locator(".pg-result")).to_contain_text('{"temperature": 12} <img')
    roles = eventually(lambda: [message["role"] for message in replica.bodies[-1]["messages"]])
    assert roles == ["user", "assistant", "tool"]
    assert replica.bodies[-1]["messages"][-1]["content"].startswith('{"temperature": 12}')
    assert visitor.findings == []


def test_a_menu_that_is_open_stays_open_while_the_first_message_begins_its_conversation(
    visitor: Visitor, chat: ChatWorld
) -> None:
    """Its key named the conversation, so that the address of a new one closed it."""
    replica = chat.replicas["oak"]
    replica.word, replica.tokens, replica.script = None, 3, "finish"
    tab = visitor.page
    visitor.go("/playground?endpoint=oak")
    tab.get_by_label("Message", exact=True).fill("Tell me of the sea.")
    tab.get_by_role("button", name="Settings").click()
    tokens = tab.get_by_label("Max new tokens")
    tokens.wait_for()
    tab.get_by_label("Message", exact=True).dispatch_event("keydown", {"key": "Enter"})  # the menu keeps the focus
    tab.wait_for_url(re.compile("conversation="))
    visitor.settle()
    expect(tokens).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tokens).to_be_hidden()
    assert visitor.findings == []


def test_escape_anywhere_closes_a_menu_first_and_then_stops_the_answer(visitor: Visitor, chat: ChatWorld) -> None:
    """It stopped only where the field, or another part of the chat, had the focus."""
    replica = chat.replicas["oak"]
    replica.word, replica.tokens, replica.delay_s, replica.script = None, 10_000, 0.01, "finish"
    tab, left = visitor.page, replica.left
    visitor.go("/playground?endpoint=oak")
    send(tab, "Tell me of the river.")
    stop = tab.get_by_role("button", name="Stop", exact=True)
    stop.wait_for()
    tab.get_by_role("button", name="Settings").click()
    tokens = tab.get_by_label("Max new tokens")
    tokens.wait_for()
    tab.keyboard.press("Escape")
    expect(tokens).to_be_hidden()
    visitor.settle()
    expect(stop).to_be_visible()
    assert replica.left == left
    tab.locator("h1").click()
    assert not tab.evaluate("document.querySelector('.pg-host').contains(document.activeElement)")
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("button", name="Send", exact=True)).to_be_visible()
    eventually(lambda: replica.left > left)
    replica.tokens, replica.delay_s = 3, 0.0
    assert visitor.findings == []


def test_two_tabs_of_a_conversation_follow_each_other_and_lose_no_edit(visitor: Visitor, chat: ChatWorld) -> None:
    """A second tab showed the conversation as it was when it was opened, and its next message came after turns that it
    had not shown.
    """
    replica = chat.replicas["oak"]
    replica.word, replica.tokens, replica.script = None, 3, "finish"
    tab = visitor.page
    visitor.go("/playground?endpoint=oak")
    send(tab, "First")
    tab.wait_for_url(re.compile("conversation="))
    other = tab.context.new_page()
    other.goto(tab.url)
    expect(other.locator(".pg-bubble")).to_have_text(["First"])
    expect(other.locator(".pg-answer").last).to_contain_text("w0 w1 w2")
    send(tab, "Second")
    expect(other.locator(".pg-bubble")).to_have_text(["First", "Second"])
    expect(other.locator(".pg-answer")).to_have_count(2)
    expect(other.locator(".pg-answer").last).to_contain_text("w0 w1 w2")
    tab.locator(".pg-question").first.get_by_role("button", name="Edit").click()
    tab.get_by_label("Edit the message").fill("First, again")
    send(other, "Third")
    expect(other.locator(".pg-answer")).to_have_count(3)
    expect(other.locator(".pg-answer").last).to_contain_text("w0 w1 w2")
    expect(tab.get_by_label("Edit the message")).to_have_value("First, again")
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.locator(".pg-bubble")).to_have_text(["First", "Second", "Third"])
    other.close()
    assert visitor.findings == []


def test_a_prompt_of_the_team_is_written_into_the_field_once(visitor: Visitor, chat: ChatWorld) -> None:
    save_prompt(chat.ctx, "retell", {"system": "Be brief.", "text": "Retell {{tale}}"}, person=LOCAL)
    replica = chat.replicas["oak"]
    tab = visitor.page
    visitor.go("/playground?endpoint=oak&prompt=retell")  # the menu is open: who came from the prompt sees it
    tab.get_by_label("tale", exact=True).fill("the <b>mill</b>")
    tab.get_by_label("tale", exact=True).press("Tab")
    visitor.settle()
    visitor.clicks("Use")
    field = tab.locator(".pg-field")
    expect(field).to_have_value("Retell the <b>mill</b>")
    field.press("Enter")
    expect(tab.locator(".pg-answer").last).to_contain_text("w0 w1 w2")
    visitor.settle()
    expect(field).to_have_value("")
    asked = [message["content"] for message in replica.bodies[-1]["messages"]]
    assert asked == ["Be brief.", "Retell the <b>mill</b>"]
    tab.get_by_role("button", name="New", exact=True).click()
    visitor.settle()
    expect(field).to_have_value("")
    assert visitor.findings == []


def test_an_endpoint_answers_twice_with_settings_of_its_own_which_its_answer_names(
    visitor: Visitor, chat: ChatWorld
) -> None:
    replica = chat.replicas["ash"]
    replica.word, replica.tokens, replica.script = None, 3, "finish"
    tab = visitor.page
    visitor.go("/playground?endpoint=ash")
    tab.get_by_text("Answer twice", exact=True).click()
    expect(tab.get_by_placeholder("Write a message, answered twice", exact=True)).to_be_visible()
    visitor.settle()
    tab.get_by_role("button", name="Settings").click()
    tab.get_by_role("tab", name="ash (2)").click()
    tab.get_by_text("Settings of its own").filter(visible=True).click()
    visitor.settle()
    temperature = tab.get_by_role("tabpanel").filter(visible=True).get_by_role("slider", name="Temperature")
    temperature.press("Home")
    visitor.settle()
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("button", name="Greedy")).to_be_visible()
    send(tab, "Hello")
    heads = tab.locator(".pg-answer .pg-head")
    expect(heads.nth(1)).to_contain_text("Greedy")
    expect(heads.nth(0)).not_to_contain_text("Greedy")
    expect(tab.locator(".pg-answer").nth(1)).to_contain_text("w0 w1 w2")
    assert sorted(body["params"]["temperature"] for body in replica.bodies[-2:])[0] == 0
    tab.wait_for_url(re.compile("conversation="))
    tab.reload()
    visitor.settle()
    expect(heads.nth(1)).to_contain_text("Greedy")
    expect(tab.get_by_role("button", name="Greedy")).to_be_visible()
    assert visitor.findings == []
