"""Ballot: admits a rater to a campaign, then leaves the page to the ballot in the browser."""

from __future__ import annotations

import streamlit as st

from backend.domain.wording import plural
from backend.services.battles.ballots import ballot_progress
from backend.services.battles.raters import BROWSER_COOKIE, RaterView, ballot_token, rater_for, rater_from_link
from backend.services.battles.views import get_campaign, list_open_campaigns
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.browser.ballot.component import ballot
from pages.components.frame import empty_state, errors_shown, plain
from pages.components.links import back_link, row_link, sign_out_link
from pages.components.people.accounts import draw_own_account
from pages.components.visitor import context, link_rater, require_person

HOME = f"{routes.address(routes.BALLOT)}?all=1"
"""Address of a rater's own page, which lists the ballots also where there is one alone."""


def draw_for_link(ctx: Context, secret: str) -> None:
    """Draw the ballot of the holder of a link."""
    rater = rater_from_link(
        ctx, secret, browser=st.context.cookies.get(BROWSER_COOKIE, ""), address=st.context.ip_address or ""
    )
    if rater.campaign_id:
        draw_ballot(ctx, rater.campaign_id, rater, leave=None)


def draw_for_person(ctx: Context, person: Person) -> None:
    """Draw the ballot of the campaign in the address, of the only open one, or the choice among the open ones, which
    is also where its way out leads.
    """
    rater = rater_for(ctx, person)
    campaign_id = st.query_params.get("campaign")
    if campaign_id:
        back_link("Ballots", page=routes.BALLOT, key="ballot_back")  # behind the ballot; seen with an error
        get_campaign(ctx, campaign_id)
        way_out = f"{routes.address(routes.BATTLES)}?campaign={campaign_id}" if person.may_build else HOME
        draw_ballot(ctx, campaign_id, rater, leave=way_out)
        return
    campaigns = list_open_campaigns(ctx)
    if len(campaigns) == 1 and "all" not in st.query_params:
        draw_ballot(ctx, campaigns[0].id, rater, leave=routes.address(routes.BATTLES) if person.may_build else HOME)
        return
    st.title("Ballots", anchor=False)
    if not campaigns:
        empty_state("No open campaigns.")
    for campaign in campaigns:
        progress = ballot_progress(ctx, campaign.id, rater)
        left = progress.total - progress.done
        with st.container(border=True, gap="xsmall"):
            row_link(campaign.name, page=routes.BALLOT, query={"campaign": campaign.id}, key=f"vote_{campaign.id}")
            if campaign.config.instructions:
                st.text(campaign.config.instructions)
            skipped = f", {progress.skipped:,} skipped" if progress.skipped else ""
            done = f"{progress.done - progress.skipped:,} done{skipped}"
            to_go = f"{done}, {left:,} to go" if progress.done else f"{plural(left, 'battle')} to judge"
            ended = f"{done}. Thank you." if skipped else "All judged. Thank you."
            st.caption(to_go if left else ended if progress.total else "Nothing to judge yet.")
    if ctx.sign_in and not person.may_build:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"Signed in as {plain(person.name)}", width="content")
            sign_out_link()
        with st.expander("Your account", icon=":material/manage_accounts:", key="own_account"):
            draw_own_account(ctx, person)


def draw_ballot(ctx: Context, campaign_id: str, rater: RaterView, *, leave: str | None) -> None:
    """Draw the ballot over the page."""
    ballot(
        token=ballot_token(ctx, campaign_id, rater),
        campaign_id=campaign_id,
        rater_id=rater.id,
        leave=leave,
        key="ballot",
    )


with errors_shown():
    secret_ = link_rater()
    if secret_ is not None:
        draw_for_link(context(), secret_)
    else:
        draw_for_person(context(), require_person())
