"""Forms through the browser: what ticks, what is typed, what is clicked twice; nothing is lost, and nothing is saved
that no one wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.bootstrap import build_context
from backend.domain.data.versions.changes import DropDuplicates
from backend.services.context import LOCAL, Context
from backend.services.data.versions import derive_version
from backend.services.evaluation.tasks import get_task, save_task
from backend.services.people.keys import check_key, list_keys
from tests.support.browser import open_tab, settle
from tests.support.data.dataset_world import done, imported
from tests.support.launch_form import add_base
from tests.support.page_server import Pages, page_server
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

pytestmark = pytest.mark.timeout(900)
ROWS = [{"instruction": f"Greet person {n % 12}.", "output": f"Dear {n % 12}!"} for n in range(30)]
MINE = (
    "name: mine\nkind: generation\nprompt: '{{question}}'\nanswer: answer\ntarget: '{{answer}}'\nmetrics:"
    " [exact_match]\n"
)


@dataclass(frozen=True)
class Forms:
    """Pages over an installation with a dataset of two versions, a base and a task."""

    url: str
    ctx: Context
    dataset: str


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Forms]:
    home = tmp_path_factory.mktemp("forms")
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    ctx = build_context(make_settings(home), migrate=False)
    first = imported(ctx, "letters", ROWS)
    done(ctx, derive_version(ctx, first.id, change=DropDuplicates(), person=LOCAL))
    Scenario(ctx).dataset("chats", kind="chat")
    add_base(ctx)
    save_task(ctx, MINE, person=LOCAL)
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        yield Forms(server.url, ctx, first.dataset_id)
    ctx.db.engine.dispose(close=False)


def opened(tab: Page, forms: Forms, path: str) -> Page:
    tab.goto(forms.url + path)
    settle(tab)
    return tab


def fill(tab: Page, label: str, value: str) -> None:
    field = tab.get_by_label(label, exact=True).first
    field.fill(value)
    field.press("Tab")
    settle(tab)


def test_a_version_is_chosen_by_a_label_that_stays_true(tab: Page, forms: Forms) -> None:
    """Its age ticked, and the page became Streamlit's error screen once the label in the browser was older than that of
    the last drawing.
    """
    opened(tab, forms, f"/datasets?dataset={forms.dataset}")
    box = tab.get_by_role("combobox", name=re.compile("Version")).first
    for name in ("Card", "Origin", "Report"):
        assert re.search(r"\d\d:\d\d", box.input_value())
        tab.get_by_role("tab", name=name).click()
        settle(tab)
        expect(tab.get_by_text("12").first).to_be_visible()
    box.click()
    tab.get_by_role("option", name=re.compile("^1 · 30 rows")).click()
    settle(tab)
    expect(tab).to_have_url(re.compile("version=1"))
    assert "Something went wrong" not in tab.inner_text("body")
    assert tab.locator("[data-testid=stException]").count() == 0


def test_open_settings_of_an_evaluation_stay_open_while_benchmarks_and_tasks_change(
    scenario: Scenario, home: Path, browser: Browser
) -> None:
    scenario.checkpoint("Oak")
    scenario.benchmark("facts")
    scenario.benchmark("questions")
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        page = open_tab(browser, width=1280, height=1000)
        page.goto(f"{server.url}/evaluations?new=1")
        settle(page)
        page.get_by_test_id("stMainBlockContainer").get_by_text("Settings", exact=True).click()
        limit = page.get_by_role("spinbutton", name="Item limit")
        expect(limit).to_be_visible()
        page.get_by_role("combobox", name="Benchmarks").fill("questions")
        page.get_by_role("option", name=re.compile("^questions")).click()
        page.keyboard.press("Escape")
        settle(page)
        task = page.get_by_role("combobox", name=re.compile("Task of questions"))
        expect(task).to_be_visible()
        expect(limit).to_be_visible()
        task.click()
        page.get_by_role("option").nth(1).click()
        settle(page)
        expect(limit).to_be_visible()
        page.context.close()


def test_a_double_click_makes_one_key_and_shows_its_secret(tab: Page, forms: Forms) -> None:
    opened(tab, forms, "/people")
    before = {key.id for key in list_keys(forms.ctx, person=LOCAL)}
    tab.get_by_label("Name", exact=True).first.fill("bot")
    tab.get_by_role("button", name="Create key").dblclick(delay=20)
    secret = tab.locator("code").filter(has_text=re.compile("^rh-.{20}"))
    expect(secret).to_have_count(1)
    settle(tab)
    (made,) = [key for key in list_keys(forms.ctx, person=LOCAL) if key.id not in before]
    grant = check_key(forms.ctx, secret.inner_text().strip())
    assert grant is not None
    assert grant.id == made.id
    tab.get_by_role("tab", name="Accounts").click()
    settle(tab)
    tab.get_by_role("tab", name="Keys").click()
    settle(tab)
    expect(secret).to_be_visible()
    tab.get_by_role("button", name="I have copied it").click()
    expect(secret).to_have_count(0)
    settle(tab)
    tab.get_by_role("button", name="Revoke").first.click()
    tab.get_by_text("are refused from now on").first.wait_for()
    assert all(key.revoked_at is None for key in list_keys(forms.ctx, person=LOCAL)), "the first click only asks"


def test_powers_of_ten_are_read_whole_and_derived_values_follow(tab: Page, forms: Forms) -> None:
    """`1e5` was one step in the browser's field of whole numbers."""
    opened(tab, forms, "/launch?dataset=chats&base=oak")
    fill(tab, "Steps (steps)" if tab.get_by_label("Steps (steps)", exact=True).count() else "Steps", "1e5")
    tab.get_by_text("As YAML").click()
    settle(tab)
    yaml = tab.locator("pre").filter(has_text="objective: sft")
    expect(yaml).to_contain_text("max_steps: 100000")
    expect(yaml).to_contain_text("eval_every: 10000")
    expect(yaml).to_contain_text("dataset: chats@1")


@pytest.mark.parametrize(
    ("typed", "shown"), [("0.00005", "5e-5"), ("5e-5", "5e-5"), ("0.0000123456789", "1.23456789e-5"), ("0.25", "0.25")]
)
def test_a_small_number_is_shown_with_every_digit_and_few_zeros(
    tab: Page, forms: Forms, typed: str, shown: str
) -> None:
    """It stood there as 0.00005, whose zeros no one counts."""
    opened(tab, forms, "/launch?dataset=chats&base=oak")
    fill(tab, "Learning rate", typed)
    expect(tab.get_by_label("Learning rate", exact=True).first).to_have_value(shown)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_the_next_step_stands_beside_the_launch_button(tab: Page, forms: Forms, width: int, height: int) -> None:
    """Warnings appeared above it and moved it out of view, so that a click on it met nothing."""
    tab.set_viewport_size({"width": width, "height": height})
    opened(tab, forms, "/launch?dataset=chats&base=oak")
    fill(tab, "Learning rate", "5")
    button, tick = tab.locator(".st-key-launch_go button"), tab.get_by_text(re.compile("^Proceed despite"))
    button.scroll_into_view_if_needed()
    expect(button).to_have_text("Accept the warnings first")
    expect(tick).to_be_in_viewport()
    boxes = [place.bounding_box() for place in (button, tick)]
    middles = [box["y"] + box["height"] / 2 for box in boxes if box is not None]
    assert max(middles) - min(middles) < 20


def test_a_number_out_of_bounds_blocks_its_form(tab: Page, forms: Forms) -> None:
    """The field turned red, and the form saved the value before it."""
    opened(tab, forms, "/evaluations?task=mine")
    fill(tab, "Max new tokens", "0")
    expect(tab.get_by_text("0 is less than 1.").first).to_be_visible()
    expect(tab.get_by_role("button", name="Correct the field first")).to_be_disabled()
    fill(tab, "Max new tokens", "1e2")
    tab.get_by_role("button", name="Save for the team").click()
    settle(tab)
    assert "max_tokens: 100" in get_task(forms.ctx, "mine").text


def test_a_task_with_a_wrong_name_is_saved_over_nothing(tab: Page, forms: Forms) -> None:
    before = get_task(forms.ctx, "mine").text
    opened(tab, forms, "/evaluations?task=new")
    fill(tab, "Name", "mine")
    fill(tab, "Prompt", "Another {{question}}")
    fill(tab, "Name", "not a name!")
    expect(tab.get_by_role("button", name="Correct the field first")).to_be_disabled()
    expect(tab.get_by_label("Prompt", exact=True).first).to_have_value("Another {{question}}")
    fill(tab, "Name", "mine")
    tab.get_by_role("button", name="Save for the team").click()
    settle(tab)
    expect(tab.get_by_role("button", name="Replace mine")).to_be_visible()
    assert get_task(forms.ctx, "mine").text == before


@pytest.mark.parametrize("address", ["", "&alias=tales@production"])
def test_a_new_alias_is_deployed_from_the_page_that_promoted_it(tab: Page, emptied: Pages, address: str) -> None:
    elm = Scenario(emptied.ctx).checkpoint("Elm")
    tab.goto(f"{emptied.url}/checkpoints?promote={elm}{address}")
    settle(tab)
    if not address:
        tab.get_by_role("textbox", name="Name of the alias").fill("tales@production")
    tab.get_by_role("textbox", name="Reason").fill("the first")
    tab.keyboard.press("Tab")
    settle(tab)
    tab.get_by_role("button", name="Promote", exact=True).click()
    tab.get_by_text("holds tales@production").wait_for()
    settle(tab)
    tab.get_by_role("button", name="Deploy this alias").click()
    tab.wait_for_url("**/endpoints?checkpoint=*")


def test_a_method_is_chosen_after_a_draft_was_discarded(tab: Page, forms: Forms) -> None:
    """None was, and the launch was refused."""
    opened(tab, forms, "/launch")
    objective = tab.get_by_role("combobox", name=re.compile("Objective"))

    def choose() -> None:
        objective.click()
        tab.get_by_role("option", name="Fine-tuning (SFT)").click()
        settle(tab)
        expect(tab.get_by_role("radio", name="Full fine-tuning")).to_be_checked()

    choose()
    opened(tab, forms, "/datasets")
    opened(tab, forms, "/launch")
    tab.get_by_role("button", name="Discard").click()
    settle(tab)
    choose()
