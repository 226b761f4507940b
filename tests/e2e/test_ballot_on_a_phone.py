"""The ballot on a phone: large targets, words on every button, and no vote before both answers were seen."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from backend.db.tables import Vote
from backend.services.battles.views import CampaignView
from backend.services.context import Context
from tests.support.browser import patient_context, renew
from tests.support.installation import wait_until
from tests.support.page_server import Pages
from tests.support.scenario import Scenario

PAUSE_MS = 400  # a vote sooner than 0.3 s after the answers appeared does not count


@pytest.fixture
def campaign(scenario: Scenario) -> CampaignView:
    return scenario.campaign(num_prompts=6, votes_per_minute=600, reasons=("Clearer", "Kinder"))


@pytest.fixture
def ctx(emptied: Pages) -> Context:
    """An installation of this test alone; its server had others before."""
    return emptied.ctx


@pytest.fixture
def address(emptied: Pages) -> str:
    """Where its pages are."""
    return emptied.url


@pytest.fixture(scope="module")
def only_tab(browser: Browser) -> Iterator[Page]:
    context = patient_context(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(only_tab: Page) -> Iterator[Page]:
    yield only_tab
    renew(only_tab)


def labels(ctx: Context) -> list[str]:
    with ctx.db.read() as session:
        return list(session.scalars(select(Vote.label).order_by(Vote.created_at)))


def wait_for_votes(ctx: Context, *expected: str) -> None:
    """Votes travel behind the page, so they arrive a little later."""
    wait_until(lambda: len(labels(ctx)) >= len(expected), what=f"{len(expected)} votes")
    assert labels(ctx) == list(expected)


def open_ballot(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_text("0 of 6", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="A is better")).to_be_visible()


def test_on_a_phone_nothing_overflows_and_every_target_is_large(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    page.get_by_role("button", name="Answer B").tap()
    expect(page.get_by_role("button", name="Answer B")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(PAUSE_MS)
    page.get_by_role("button", name="B is better").tap()
    expect(page.get_by_text(re.compile("^1 of 6"))).to_be_visible()
    sizes = page.evaluate(
        "() => [...document.querySelectorAll('.bt button')].filter(n => n.checkVisibility()).flatMap(n =>"
        " [n.offsetWidth, n.offsetHeight])"
    )
    assert min(sizes) >= 44
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="Answer B").tap()
    expect(page.get_by_role("button", name="Answer B")).to_have_attribute("aria-pressed", "true")
    wait_for_votes(ctx, "B")


def test_on_a_phone_the_words_of_all_tools_keep_a_distance_from_the_edge(
    scenario: Scenario, address: str, page: Page
) -> None:
    campaign = scenario.campaign(num_prompts=6, instructions="Prefer the kinder answer.")
    page.goto(f"{address}/ballot?campaign={campaign.id}")
    page.get_by_role("dialog", name="Instructions").get_by_role("button", name="Close").tap()
    expect(page.get_by_role("button", name="Instructions")).to_be_visible()
    ends = page.evaluate(
        "() => [...document.querySelectorAll('.bt-tools .bt-words')].map(n => n.getBoundingClientRect().right)"
    )
    assert max(ends) <= 390 - 12, "“Instructions” touched the edge"


def test_on_a_phone_a_vote_waits_until_both_answers_were_seen(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    page.wait_for_timeout(PAUSE_MS)
    page.get_by_role("button", name="A is better").tap()
    expect(page.get_by_text("Here is answer B. Read it too, then vote.")).to_be_visible()
    expect(page.get_by_role("button", name="Answer B")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("0 of 6", exact=True)).to_be_visible()
    assert labels(ctx) == []
    page.get_by_role("button", name="Answer A").tap()
    expect(page.get_by_role("button", name="Answer A")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("Here is answer B.")).to_have_count(0)  # it stayed over answer A
    page.wait_for_timeout(PAUSE_MS)
    page.get_by_role("button", name="A is better").tap()
    wait_for_votes(ctx, "A")
    expect(page.get_by_text("Here is answer B.")).to_have_count(0)
    expect(page.get_by_role("button", name="Answer A")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(PAUSE_MS)
    page.get_by_role("button", name="A is better").tap()
    expect(page.get_by_text("Here is answer B.")).to_be_visible()
    page.get_by_role("button", name="Undo").tap()
    expect(page.get_by_text("0 of 6", exact=True)).to_be_visible()
    expect(page.get_by_text("Here is answer B.")).to_have_count(0)  # it stayed over answer A of the battle before
    page.wait_for_timeout(PAUSE_MS)
    page.get_by_role("button", name="Skip").tap()
    wait_for_votes(ctx, "A", "UNDONE", "SKIPPED")


def test_on_a_phone_the_buttons_of_messages_and_help_have_words(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    page.route("**/ballot/api/next", lambda route: route.abort())
    page.goto(f"{address}/ballot?campaign={campaign.id}")
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    assert again.locator(".bt-words").evaluate("words => words.offsetWidth") > 40
    page.keyboard.press("?")
    close = page.get_by_role("dialog", name="Keys of the ballot").get_by_role("button", name="Close")
    assert close.locator(".bt-words").evaluate("words => words.offsetWidth") > 20
    close.tap()
    page.unroute("**/ballot/api/next")
    again.tap()
    expect(page.get_by_role("button", name="A is better")).to_be_visible()
