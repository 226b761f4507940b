"""The ballot in a real browser: keys vote, nothing tells who wrote what, a link opens the ballot alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from backend.db.tables import Completion, Contestant, Vote
from backend.services.battles.raters import create_rater_link
from backend.services.battles.views import CampaignView
from backend.services.context import LOCAL, Context
from tests.support.battle_world import make_campaign, write_all
from tests.support.page_server import page_server

pytestmark = pytest.mark.e2e
HOSTILE = '<img src="http://evil.example/a.png">![x](http://evil.example/b.png)'
PAUSE_MS = 400  # a vote sooner than 0.3 s after the answers appeared does not count


@pytest.fixture
def campaign(ctx: Context) -> CampaignView:
    made = make_campaign(ctx, contestants=("Quercus-large", "Ulmus-mini"), num_prompts=6, write=False)
    write_all(ctx, made.id, text=lambda name, prompt: f"{HOSTILE} {len(name)} leaves for {prompt}")
    return made


@pytest.fixture
def address(campaign: CampaignView, home: Path) -> Iterator[str]:
    """The pages' server, started for this test alone."""
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        yield server.url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def labels(ctx: Context) -> list[str]:
    with ctx.db.read() as session:
        return list(session.scalars(select(Vote.label).order_by(Vote.created_at)))


def open_ballot(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.get_by_text("0 of 6")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="A is better")).to_be_enabled()


def press(page: Page, key: str, *, then: str) -> None:
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press(key)
    expect(page.get_by_text(re.compile(rf"^{then}( ·|$)"))).to_be_visible(timeout=15_000)


def test_keys_vote_and_undo_and_enter_does_not(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    press(page, "1", then="1 of 6")
    press(page, "2", then="2 of 6")
    press(page, "3", then="3 of 6")
    press(page, "u", then="2 of 6")
    press(page, "4", then="3 of 6")
    assert labels(ctx) == ["A", "B", "TIE", "UNDONE", "BOTH_BAD"]
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="A is better").click()
    expect(page.get_by_text(re.compile("^4 of 6"))).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("Enter")  # the button that was clicked is gone, so Enter has nothing to press
    press(page, "3", then="5 of 6")
    assert labels(ctx)[5:] == ["A", "TIE"]
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("1")
    expect(page.get_by_text("6 votes. Thank you")).to_be_visible()
    expect(page.get_by_role("link", name="Standings")).to_be_visible()


def test_a_key_that_is_held_down_votes_once_a_battle_at_most(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    page.wait_for_timeout(PAUSE_MS)
    for _ in range(6):
        page.keyboard.down("1")  # repeats, as a held key does
    page.keyboard.up("1")
    expect(page.get_by_text(re.compile("^1 of 6"))).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)
    assert labels(ctx) == ["A"]


def test_the_ballot_does_not_reveal_the_contestants(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: foreign.append(request.url) if not request.url.startswith((address, "ws://127", "data:", "blob:")) else None,
    )
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    with ctx.db.read() as session:
        ids = [row.id for row in session.scalars(select(Contestant))] + [row.id for row in session.scalars(select(Completion))]
    for place in range(2):
        shown = page.content()
        for secret in ("Quercus-large", "Ulmus-mini", *(c.checkpoint_id for c in campaign.contestants), *ids):
            assert secret not in shown
        assert page.get_by_text(HOSTILE).count() == 2
        press(page, "3", then=f"{place + 1} of 6")
    assert foreign == []
    assert page.locator("img[src*='evil']").count() == 0


def test_a_signed_link_opens_the_ballot_alone(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    link = create_rater_link(ctx, campaign.id, name="guest", person=LOCAL)
    query = link.url.split("/ballot")[1]
    open_ballot(page, f"{address}/ballot{query}")
    for name in ("Overview", "Battles", "Runs", "Playground", "Quercus-large", campaign.name):
        assert page.get_by_text(name, exact=True).count() == 0
    press(page, "2", then="1 of 6")
    page.reload()
    expect(page.get_by_text(re.compile("^1 of 6"))).to_be_visible(timeout=30_000)
    with ctx.db.read() as session:
        assert [vote.rater_id for vote in session.scalars(select(Vote))] == [link.rater.id]
    page.goto(f"{address}/ballot?link=forged")
    expect(page.get_by_text("This ballot link is not valid any more.")).to_be_visible(timeout=30_000)
    assert page.get_by_role("button", name="A is better").count() == 0
