"""Ballot: a prompt, two anonymous answers side by side, four keys. Text is never rendered."""

from __future__ import annotations

import time

import streamlit as st

from backend.errors import RoundhouseError
from backend.services.battles.ballots import BallotProgress, BallotView, ballot_progress, cast_vote, next_battle, undo
from backend.services.battles.raters import RaterView, rater_for, rater_from_link
from backend.services.battles.views import list_open_campaigns
from backend.services.context import Context
from pages.components import routes
from pages.components.frame import empty_state, errors_shown, plain, show_error
from pages.components.links import back_link
from pages.components.visitor import context, current_person, link_rater, require_person

CHOICES = (("A", "A is better", "1"), ("B", "B is better", "2"), ("TIE", "Equally good", "3"), ("BOTH_BAD", "Both bad", "4"))
MIN_LOOK_S = 0.3
"""A held key repeats, so a vote this soon after the answers appear is ignored."""

LONG_TEXT = 1400


def choose(ctx: Context) -> tuple[str, RaterView] | None:
    """Return campaign and rater: those of the link, or the signed-in person's, who picks among the open campaigns."""
    secret = link_rater()
    if secret is not None:
        rater = rater_from_link(ctx, secret)
        return (rater.campaign_id, rater) if rater.campaign_id else None
    rater = rater_for(ctx, require_person())
    campaign_id = st.query_params.get("campaign")
    if campaign_id:
        if require_person().may_build:
            back_link("Campaign", page=routes.BATTLES, query={"campaign": campaign_id}, key="ballot_back")
        return campaign_id, rater
    campaigns = list_open_campaigns(ctx)
    if not campaigns:
        empty_state("No open campaigns.")
        return None
    if len(campaigns) == 1:
        return campaigns[0].id, rater
    names = {campaign.id: campaign.name for campaign in campaigns}
    picked = st.selectbox("Campaign", list(names), format_func=names.__getitem__, key="ballot_campaign")
    return picked, rater


def vote(ctx: Context, battle_id: str, label: str, rater: RaterView) -> None:
    """Cast a vote; an error is shown by the next run of the page."""
    shown, since = st.session_state.get("ballot_shown", ("", 0.0))
    elapsed = time.monotonic() - since
    if shown != battle_id or elapsed < MIN_LOOK_S:
        return
    try:
        cast_vote(ctx, battle_id, label=label, rater=rater, duration_ms=round(elapsed * 1000))
    except RoundhouseError as error:
        st.session_state["ballot_error"] = error


def take_back(ctx: Context, campaign_id: str, rater: RaterView) -> None:
    """Undo the newest vote."""
    try:
        undo(ctx, campaign_id, rater)
    except RoundhouseError as error:
        st.session_state["ballot_error"] = error


def draw_progress(ctx: Context, campaign_id: str, rater: RaterView, progress: BallotProgress) -> None:
    """Draw progress, pace and undo."""
    with st.container(horizontal=True, vertical_alignment="center"):
        pace = f" · your median {progress.median_s:.0f} s" if progress.median_s is not None else ""
        st.progress(progress.done / max(1, progress.total), text=f"{progress.done} of {progress.total}{pace}")
        st.button(
            "Undo",
            key="ballot_undo",
            icon=":material/undo:",
            shortcut="U",
            disabled=not progress.can_undo,
            on_click=take_back,
            args=(ctx, campaign_id, rater),
            help="Undoes your last vote, up to ten in a row.",
        )


def draw_text(text: str) -> None:
    """Draw model or dataset text as plain text: spaces kept, long lines wrapped."""
    if text.strip():
        st.text(text, width="stretch")
    else:
        st.caption("(empty)")


def draw_battle(ctx: Context, ballot: BallotView, rater: RaterView) -> None:
    """Draw the prompt, the two answers and the four choices."""
    with st.container(border=True):
        for role, text in ballot.prompt:
            st.caption("Prompt" if role == "user" else plain(role.capitalize()))
            draw_text(text)
    is_long = max(len(ballot.text_a), len(ballot.text_b)) > LONG_TEXT
    for column, side, text in zip(st.columns(2), "AB", (ballot.text_a, ballot.text_b), strict=True):
        with column, st.container(border=True, height=460 if is_long else "stretch"):
            st.caption(f"Answer {side}")
            draw_text(text)
    for column, (label, words, key) in zip(st.columns(4), CHOICES, strict=True):
        column.button(
            words,
            key=f"vote_{label}_{ballot.battle_id}",
            shortcut=key,
            width="stretch",
            on_click=vote,
            args=(ctx, ballot.battle_id, label, rater),
        )
    st.caption("Keys: 1 and 2 choose, 3 tie, 4 both bad, U undo. Enter never votes.", text_alignment="center")


@st.fragment(run_every=2)
def draw_waiting(ctx: Context, campaign_id: str, rater: RaterView) -> None:
    """Draw the wait for the first comparable answers."""
    if next_battle(ctx, campaign_id, rater) is not None or not ballot_progress(ctx, campaign_id, rater).more_to_come:
        st.rerun()
    st.info("The answers are being generated. The ballot continues by itself.", icon=":material/hourglass_top:")


def draw_end(ctx: Context, campaign_id: str, rater: RaterView, progress: BallotProgress) -> None:
    """Draw the end of the ballot, or the wait for more answers."""
    if progress.more_to_come and progress.done >= progress.total:
        draw_waiting(ctx, campaign_id, rater)
        return
    if progress.done == 0:
        empty_state("Nothing to compare: the answers are missing or identical.")
    else:
        st.success(f"That was the last one: {progress.done} votes. Thank you.", icon=":material/check_circle:")
    person = current_person()
    if link_rater() is None and person is not None and person.may_build:
        st.page_link(routes.BATTLES, label="Standings", icon=":material/leaderboard:", query_params={"campaign": campaign_id})


@st.fragment
def draw_ballot(ctx: Context, campaign_id: str, rater: RaterView) -> None:
    """Draw the current battle; a vote reruns only this fragment."""
    with errors_shown():
        error = st.session_state.pop("ballot_error", None)
        if error is not None:
            show_error(error)
        ballot = next_battle(ctx, campaign_id, rater)
        progress = ballot.progress if ballot else ballot_progress(ctx, campaign_id, rater)
        draw_progress(ctx, campaign_id, rater, progress)
        if ballot is None:
            st.session_state.pop("ballot_shown", None)
            draw_end(ctx, campaign_id, rater, progress)
            return
        if st.session_state.get("ballot_shown", ("", 0.0))[0] != ballot.battle_id:
            st.session_state["ballot_shown"] = (ballot.battle_id, time.monotonic())
        draw_battle(ctx, ballot, rater)


st.title("Which answer is better?", anchor=False)
with errors_shown():
    chosen_ = choose(context())
    if chosen_ is not None:
        draw_ballot(context(), *chosen_)
