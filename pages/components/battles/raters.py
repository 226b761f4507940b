"""Raters of a campaign: votes, pace, exclusions with their reasons, and links to the ballot."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import streamlit as st

from backend.domain.battles.quality import RaterQuality
from backend.domain.wording import percent, plural
from backend.services.battles.answers import count_flagged_battles
from backend.services.battles.ballots import count_pairs
from backend.services.battles.quality import (
    exclude_rater,
    include_rater,
    last_rater_qualities,
    list_exclusions,
    rater_qualities,
)
from backend.services.battles.raters import (
    LOCAL_RATER,
    RaterLink,
    RaterRow,
    create_rater_links,
    link_qr_svg,
    list_raters,
    reissue_rater_link,
    revoke_rater_link,
)
from backend.services.battles.views import CampaignView
from backend.services.context import Context, Person
from pages.components.battles.answers import FLAGGED
from pages.components.choices import choose_from
from pages.components.confirm import close_menu, draw_confirmed_in_menu, menu_key
from pages.components.frame import handled, plain, rerun_after
from pages.components.links import draw_who_reaches, tab_link
from pages.components.numbers import form_button
from pages.components.tables import MISSING, draw_table
from pages.components.words import day, when

FRESH = "fresh_rater_links"
"""Links made in this session, by rater. Only their hashes are stored, so they are shown until they are dismissed."""


def draw_raters(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the raters and the form for rater links."""
    rows = list_raters(ctx, campaign.id)
    if not campaign.is_imported and not campaign.config.is_single:
        _draw_pairs(ctx, campaign)
    if rows:
        out = {decision.rater_id: decision.excluded for decision in reversed(list_exclusions(ctx, campaign.id))}
        quality = rater_qualities(ctx, campaign.id)
        flagged = count_flagged_battles(ctx, campaign.id)
        lines = [
            _rater_line(
                row,
                quality.get(row.rater.id),
                num_flagged=flagged.get(row.rater.id, 0),
                excluded=out.get(row.rater.id, False),
                is_imported=campaign.is_imported,
                now=ctx.now(),
            )
            for row in rows
        ]
        measured = [title for title in lines[0] if any(line[title] != MISSING for line in lines)]
        draw_table([{title: line[title] for title in measured} for line in lines], key="raters", alt="Raters")
        if any(quality[row.rater.id].num_votes > row.num_votes for row in rows if row.rater.id in quality):
            st.caption("Votes are those on the board. Pace, sides and quality flags count repeats and gold pairs too.")
        if number := sum(flagged.values()):
            words = f"{plural(number, 'battle')} flagged by raters"
            tab_link(words, "Answers", key="raters_flagged", remarks=FLAGGED)
        for row in rows:
            flags = quality[row.rater.id].flags if row.rater.id in quality else ()
            if flags:
                st.caption(f":material/flag: {plain(row.rater.name)}: {plain(' '.join(flag.reason for flag in flags))}")
        _draw_exclusion(ctx, person, campaign, rows, out)
    else:
        own = "vote yourself, or " if campaign.is_votable else ""
        st.caption(f"No raters yet: {own}create a link.")
    if not person.may_build or not campaign.is_open or campaign.is_standing:
        return
    _draw_links(ctx, person, campaign, rows)


def draw_flagged(ctx: Context, campaign: CampaignView, *, key: str) -> bool:
    """Draw the way to the raters with quality flags whose votes count, and return whether there are any."""
    raters = last_rater_qualities(ctx, campaign.id)
    flagged = any(rater.flags for rater in raters.values() if not rater.is_excluded)
    if flagged:
        tab_link(count_flags(raters), "Raters", key=key)
    return flagged


def count_flags(raters: Mapping[str, RaterQuality]) -> str:
    """Return how many of the raters whose votes count have quality flags, and how many raters are excluded."""
    counted = [rater for rater in raters.values() if not rater.is_excluded]
    flagged, excluded = sum(bool(rater.flags) for rater in counted), len(raters) - len(counted)
    return f"Quality flags on {flagged} of {plural(len(counted), 'rater')}" + (
        f" ({excluded:,} excluded)" if excluded else ""
    )


def _draw_pairs(ctx: Context, campaign: CampaignView) -> None:
    """Draw how many battles there are, and why a ballot has fewer."""
    pairs, identical = count_pairs(ctx, campaign.id)
    if not pairs:
        return
    equal = f"; raters see {pairs - identical:,}, since the answers of {identical:,} are identical" if identical else ""
    st.caption(f"{plural(pairs, 'pair')} of answers{equal}. A ballot ends after {campaign.config.votes_per_rater:,}.")


def _draw_links(ctx: Context, person: Person, campaign: CampaignView, rows: list[RaterRow]) -> None:
    with st.form("rater_link", border=False):
        left, middle, single, right = st.columns([3, 1, 1.2, 1.4], vertical_alignment="bottom")
        names = left.text_area(
            "Invite raters, one name a line",
            key=menu_key("rater_names"),
            placeholder="Names or pseudonyms",
            height="content",
        )
        days = middle.number_input("Days", 1, 365, 14, key="rater_days")
        single_use = single.checkbox(
            "Single use", key="rater_single", help="Works only in the first browser that opens it."
        )
        if right.form_submit_button("Create links", icon=":material/link:", width="stretch"):
            with rerun_after():
                given = [line for line in names.splitlines() if line.strip()] or [""]
                made = create_rater_links(
                    ctx, campaign.id, names=given, days=int(days), single_use=single_use, person=person
                )
                for link in reversed(made):  # the newest is drawn first
                    _keep(link)
                close_menu("rater_names")  # renews the field
    for link in reversed(st.session_state.get(FRESH, {}).values()):
        if link.rater.campaign_id == campaign.id:
            _draw_fresh(ctx, link)
    links = {row.rater.id: row for row in rows if row.is_link}
    if links:
        with st.popover("Reissue or revoke a link", icon=":material/link_off:", key=menu_key("links_menu")):
            _draw_link_menu(ctx, person, links)


def _keep(link: RaterLink) -> None:
    st.session_state.setdefault(FRESH, {})[link.rater.id] = link


def _draw_fresh(ctx: Context, link: RaterLink) -> None:
    """Draw a new link until it is dismissed."""
    with st.container(border=True):
        until = f" until {day(link.rater.expires_at)}" if link.rater.expires_at else ""
        st.markdown(f":material/link: **Link of {plain(link.rater.name)}.** It opens this ballot alone{until}.")
        st.code(link.url, language=None, wrap_lines=True)
        draw_who_reaches(ctx, link.url)
        st.caption("Copy it before you dismiss it: only its hash is stored. A lost link is reissued.")
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.popover("QR code", icon=":material/qr_code:", key=f"qr_{link.rater.id}"):
                st.image(link_qr_svg(link.url), width=220)
            st.button(
                "Dismiss",
                icon=":material/close:",
                key=f"dismiss_{link.rater.id}",
                on_click=handled(st.session_state[FRESH].pop),
                args=(link.rater.id, None),
            )


def _draw_link_menu(ctx: Context, person: Person, links: dict[str, RaterRow]) -> None:
    now = ctx.now()
    chosen = choose_from("Whose", links, words=lambda rater: _link_label(links[rater], now), key="link_whose")
    st.caption(
        "A new link for the same rater: the old one ends, votes are kept. A single-use link opens in a new browser."
    )
    days = st.number_input("Days", 1, 365, 14, key="reissue_days")
    with st.container(horizontal=True):
        if st.button("Reissue", type="primary", icon=":material/autorenew:", key="reissue_link"):
            with rerun_after():
                _keep(reissue_rater_link(ctx, chosen, days=int(days), person=person))
                close_menu("links_menu")
        ended = not _is_valid(links[chosen], now)

        def revoke() -> None:
            revoke_rater_link(ctx, chosen, person=person)
            st.session_state.get(FRESH, {}).pop(chosen, None)
            close_menu("links_menu")

        draw_confirmed_in_menu(
            "Revoke",
            f"The link of **{plain(links[chosen].rater.name)}** ends now. Votes are kept.",
            revoke,
            key="end_link",
            icon="link_off",
            disabled=ended,
        )


def _is_valid(row: RaterRow, now: datetime) -> bool:
    return row.rater.expires_at is not None and row.rater.expires_at > now


def _link_label(row: RaterRow, now: datetime) -> str:
    kind = ", single use" if row.single_use else ""
    return (
        f"{row.rater.name}{kind},"
        f" {'until ' + day(row.rater.expires_at) if row.rater.expires_at and _is_valid(row, now) else 'ended'}"
    )


def _draw_exclusion(
    ctx: Context, person: Person, campaign: CampaignView, rows: list[RaterRow], out: dict[str, bool]
) -> None:
    """Draw who was excluded and why, and the form that excludes a rater or counts one again."""
    for decision in list_exclusions(ctx, campaign.id):
        verb = "excluded" if decision.excluded else "counted again"
        parts = [
            f"{decision.rater} {verb}",
            *([f"by {decision.by}"] if decision.by else []),
            when(decision.at, now=ctx.now()),
        ]
        reason = f": {decision.reason}" if decision.reason else ""
        st.caption(
            f":material/{'person_off' if decision.excluded else 'person_add'}: {plain(' '.join(parts) + reason)}"
        )
    names = {row.rater.id: row.rater.name for row in rows if row.num_votes}
    if not person.may_build or not names:
        return
    with st.popover("Exclude a rater", icon=":material/person_off:", key=menu_key("exclude_menu")):
        st.caption("The votes stay stored; the board leaves them out, says so, and can be seen both ways.")
        chosen = choose_from("Rater", names, key="exclude_who", value=None, placeholder="Choose a rater")
        if out.get(chosen, False):
            if st.button("Count again", key="include_go", type="primary"):
                with rerun_after():
                    include_rater(ctx, campaign.id, chosen, person=person)
                    close_menu("exclude_menu")
            return
        reason = st.text_input(
            "Reason", key="exclude_reason", max_chars=500, placeholder="Votes faster than the answers can be read"
        )
        missing = {"choose a rater": chosen is None, "enter a reason": not reason.strip()}
        if form_button("Exclude", missing, key="exclude_go"):
            with rerun_after():
                exclude_rater(ctx, campaign.id, chosen, reason=reason, person=person)
                close_menu("exclude_menu")


def _rater_line(
    row: RaterRow,
    quality: RaterQuality | None,
    *,
    num_flagged: int,
    excluded: bool,
    is_imported: bool,
    now: datetime,
) -> dict[str, object]:
    agreement, consistency, gold = (
        (quality.agreement, quality.consistency, quality.gold) if quality else (None, None, None)
    )
    left = quality.left if quality else None
    return {
        "Rater": row.rater.name,
        "In the CSV": row.label,
        "Access": (
            "imported"
            if is_imported
            else f"link, {_link_state(row, now)}"
            if row.is_link
            else "account"
            if row.rater.id != LOCAL_RATER
            else "this machine"
        ),
        "Votes": row.num_votes,
        "Skipped": row.num_skipped,
        "On the board": "excluded" if excluded else "yes" if row.num_votes else MISSING,
        "Median seconds per vote": f"{quality.seconds:.1f}" if quality and quality.seconds else MISSING,
        "Chose side A": f"{percent(left.value)} of {left.n}" if left else MISSING,
        "Agrees with others": percent(agreement.value) if agreement else MISSING,
        "Kappa": (
            f"{quality.kappa + 0.0:.2f}".replace("-0.00", "0.00") if quality and quality.kappa is not None else MISSING
        ),
        "Same on repeats": f"{percent(consistency.value)} of {consistency.n}" if consistency else MISSING,
        "Gold passed": f"{percent(gold.value)} of {gold.n}" if gold else MISSING,
        "Quality flags": len(quality.flags) if quality else 0,
        "Battles flagged": num_flagged,
    }


def _link_state(row: RaterRow, now: datetime) -> str:
    if row.rater.expires_at is None:
        return "ended"
    return f"{'until' if row.rater.expires_at > now else 'ended'} {day(row.rater.expires_at)}"
