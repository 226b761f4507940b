"""Rows of a dataset in a browser: bubbles, search, one row by its address and by keys, and text that stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backend.bootstrap import build_context
from backend.services.context import Context
from tests.support.browser import settle
from tests.support.data.dataset_world import imported
from tests.support.page_server import page_server
from tests.support.settings import make_settings

pytestmark = pytest.mark.timeout(900)

EVIL = "<img src=x onerror='window.evil = 1'> **bold** [here](javascript:window.evil=1) $x$ \u202eturned"
TALKS = [
    {"messages": [{"role": "user", "content": f"Question {n}"}, {"role": "assistant", "content": "Answer. " * n}]}
    for n in range(1, 40)
] + [{"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": EVIL}]}]
PAIRS = [{"prompt": f"Question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(30)]


@dataclass(frozen=True)
class Rows:
    """Pages over two datasets."""

    url: str
    ctx: Context
    talks: str
    pairs: str


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Rows]:
    home = tmp_path_factory.mktemp("rows")
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(home), migrate=False)
    talks, pairs = imported(context, "talks", TALKS, kind="chat"), imported(context, "pairs", PAIRS, kind="preference")
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        address = f"{server.url}/datasets?dataset="
        yield Rows(server.url, context, address + talks.dataset_id, address + pairs.dataset_id)
    context.db.engine.dispose(close=False)


def titles(tab: Page) -> list[str]:
    return tab.locator(".dr-name").all_inner_texts()


def test_a_row_is_found_opened_by_its_address_and_left_by_keys(tab: Page, rows: Rows) -> None:
    tab.goto(f"{rows.talks}&split=Train")
    settle(tab)
    expect(tab.locator(".dr-row")).to_have_count(10)
    tab.get_by_placeholder("Text in rows").fill("QUESTION 1")
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(re.compile("find=QUESTION"))
    expect(tab.locator(".dr-row mark").first).to_have_text("Question 1")
    settle(tab)
    listed = titles(tab)
    tab.locator("a.dr-name").nth(1).click()
    expect(tab.locator(".dr-row")).to_have_count(1)
    assert titles(tab) == listed[1:2]
    for key, place in (("j", 2), ("ArrowRight", 3), ("k", 2)):
        tab.keyboard.press(key)
        expect(tab.locator(".dr-name")).to_have_text(listed[place])
        settle(tab)
    tab.reload()
    settle(tab)
    expect(tab.locator(".dr-name")).to_have_text(listed[2:3])
    tab.go_back()
    expect(tab.locator(".dr-name")).to_have_text(listed[3:4])
    settle(tab)
    tab.get_by_placeholder("Text in rows").press("j")  # a key typed into a field is not a step
    settle(tab)
    assert titles(tab) == listed[3:4]
    tab.get_by_placeholder("Text in rows").fill("question 1")
    assert titles(tab) == listed[3:4]
    tab.locator("h1").click()
    tab.keyboard.press("Escape")
    expect(tab.locator(".dr-row").nth(1)).to_be_visible()
    assert "row=" not in tab.url


def test_answers_stand_beside_each_other_and_below_each_other_on_a_phone(tab: Page, rows: Rows) -> None:
    for width, is_beside in ((1280, True), (390, False)):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(f"{rows.pairs}&row=train-2")
        settle(tab)
        expect(tab.locator(".dr-side")).to_have_count(2)
        chosen, rejected = (tab.locator(f"[data-side={side}]").bounding_box() for side in ("chosen", "rejected"))
        assert chosen is not None
        assert rejected is not None
        assert (chosen["y"] == rejected["y"]) is is_beside
        assert (chosen["x"] == rejected["x"]) is not is_beside
        assert tab.evaluate("document.querySelector('.stMain').scrollWidth - innerWidth") <= 0


def test_text_of_rows_stays_text(tab: Page, rows: Rows) -> None:
    tab.goto(f"{rows.talks}&find=onerror")
    settle(tab)
    row = tab.locator(".dr-row")
    expect(row).to_have_count(1)
    expect(row.locator(".dr-text").first).to_contain_text("**bold** [here](javascript:window.evil=1) $x$ \\u202eturned")
    assert row.locator("img, script, strong, [onerror]").count() == 0
    assert row.locator("a").count() == 1, "the link to the row alone"
    assert tab.evaluate("window.evil") is None


def test_a_wrong_row_or_length_in_the_address_is_said_and_the_page_goes_on(tab: Page, rows: Rows) -> None:
    tab.goto(f"{rows.talks}&row=train-999")
    expect(tab.get_by_text("There is no row “train-999”")).to_be_visible()
    expect(tab.locator(".dr-row")).to_have_count(10)
    tab.goto(f"{rows.talks}&from=30&to=2")
    expect(tab.get_by_text("No length is at least 30 and at most 2 characters.")).to_be_visible()
    expect(tab.get_by_text("Give the smaller number first.")).to_be_visible()
