"""The page of a campaign in a browser: a rater's link stays through other tabs until it is dismissed, and the number of
flagged battles leads to them.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from backend.services.context import Context
from tests.support.battle_world import cast_vote, link_rater, next_battle
from tests.support.browser import open_tab, settle
from tests.support.page_server import page_server
from tests.support.scenario import Scenario


def test_a_raters_link_stays_through_other_tabs_until_it_is_dismissed(
    scenario: Scenario, home: Path, browser: Browser
) -> None:
    campaign = scenario.campaign()
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        page = open_tab(browser, width=1280, height=1000)
        page.goto(f"{server.url}/battles?campaign={campaign.id}&tab=Raters")
        settle(page)  # here and below: a click beside a redraw is lost
        page.get_by_label("Invite raters, one name a line").fill("Owl")
        page.get_by_role("button", name="Create links").click()
        link = page.get_by_text("Link of Owl.")
        expect(link).to_be_visible()
        settle(page)
        page.get_by_role("tab", name="Contestants").click()
        expect(page.get_by_text("4 of 4 prompts answered").first).to_be_visible()
        settle(page)
        page.get_by_role("tab", name="Raters").click()
        expect(link).to_be_visible()
        settle(page)
        page.get_by_role("button", name="Dismiss").click()
        expect(link).to_have_count(0)
        settle(page)
        page.get_by_role("button", name="Reissue or revoke a link").click()
        page.get_by_role("button", name="Reissue", exact=True).click()
        expect(link).to_be_visible()
        expect(page.get_by_label("Whose")).to_have_count(0)  # the menu lay over the link that it had made
        page.context.close()


def test_the_number_of_flagged_battles_leads_from_one_tab_to_another(
    ctx: Context, scenario: Scenario, home: Path, browser: Browser
) -> None:
    campaign = scenario.campaign(num_prompts=6)
    owl = link_rater(ctx, campaign.id, "Owl")
    for flag in ("Answer is cut off", ""):
        ballot = next_battle(ctx, campaign.id, owl)
        assert ballot is not None
        cast_vote(ctx, ballot.battle_id, label="A", rater=owl, duration_ms=5000, flag=flag)
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        page = open_tab(browser, width=1280, height=1000)
        page.goto(f"{server.url}/battles?campaign={campaign.id}&tab=Raters")
        settle(page)
        for _ in range(2):  # the second time the tab was open before, with another filter
            page.get_by_role("button", name="1 battle flagged by raters").click()
            expect(page.get_by_text("flagged: Answer is cut off")).to_be_visible()
            expect(page).to_have_url(re.compile("tab=Answers&remarks=Flagged"))
            page.get_by_role("radio", name="All").click()
            page.get_by_role("tab", name="Raters").click()
        page.context.close()
