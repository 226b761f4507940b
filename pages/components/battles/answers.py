"""Answers of a campaign: each prompt with the compared answers, their votes and notes. Text is never rendered."""

from __future__ import annotations

import math

import streamlit as st

from backend.domain.wording import plural
from backend.services.battles.answers import (
    AnswerPair,
    Order,
    PromptAnswers,
    Remark,
    Remarks,
    list_answers,
)
from backend.services.battles.views import CampaignView
from backend.services.context import Context
from pages.components.charts.html import Share, figure, stacked_bar
from pages.components.charts.style import ACCENT, BLUE, COLORS, MUTED, fade, short_name
from pages.components.choices import choose_one
from pages.components.frame import empty_state, handled, plain

ORDERS: dict[Order, str] = {"prompt": "Prompt order", "votes": "Most votes", "split": "Most split"}
FLAGGED = "Flagged"
SHOWN: dict[str, Remarks] = {"All": "all", "With notes or flags": "remarked", FLAGGED: "flagged"}
PAGE_SIZE = 8
LONG_TEXT = 900
BAR_PX = 12


def draw_answers(ctx: Context, campaign: CampaignView) -> None:
    """Draw the filters and one page of voted prompts."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        order = choose_one("Sort by", ORDERS, default="prompt", key="answers_order")
        categories_slot = st.container(width=220)
        remarks = SHOWN[choose_one("Show", list(SHOWN), key="remarks", bind="query-params")]
    page_number = st.session_state.get("answers_page", 1)
    category = st.session_state.get("answers_category")
    answers = list_answers(
        ctx,
        campaign.id,
        order=order or "prompt",
        category=category,
        remarks=remarks,
        offset=(page_number - 1) * PAGE_SIZE,
        limit=PAGE_SIZE,
        with_all_pairs=st.session_state.setdefault("answers_expanded", set()),
    )
    if answers.categories:
        categories_slot.selectbox("Category", answers.categories, index=None, placeholder="All", key="answers_category")
    if not answers.total:
        empty_state("No votes match these filters." if category or remarks != "all" else "No votes yet.")
        return
    colors = {contestant.name: COLORS[number % len(COLORS)] for number, contestant in enumerate(campaign.contestants)}
    is_bare = not any(pair.has_texts for prompt in answers.prompts for pair in prompt.pairs)
    if is_bare:
        st.caption(":material/info: The imported file has the votes without the answers.")
    for prompt in answers.prompts:
        _draw_prompt(prompt, colors, is_bare=is_bare)
    pages = math.ceil(answers.total / PAGE_SIZE)
    if pages > 1:
        st.pagination(pages, key="answers_page")


def _draw_prompt(prompt: PromptAnswers, colors: dict[str, str], *, is_bare: bool) -> None:
    with st.container(border=True):
        parts = [
            f"Prompt {prompt.number}",
            *([prompt.category] if prompt.category else []),
            plural(prompt.votes, "vote"),
        ]
        st.caption(plain(" · ".join(parts)))
        for role, text in prompt.messages:
            if role != "user" or len(prompt.messages) > 1:
                st.caption(plain(role.capitalize()))
            _draw_text(text)
        for number, pair in enumerate(prompt.pairs):
            _draw_pair(pair, colors, key=f"{prompt.prompt_id}_{number}", is_bare=is_bare)
        more = prompt.num_pairs - len(prompt.pairs)
        if more:
            st.button(
                f"Show {plural(more, 'more pair')}",
                key=f"all_pairs_{prompt.prompt_id}",
                icon=":material/expand_more:",
                on_click=handled(st.session_state["answers_expanded"].add),
                args=(prompt.prompt_id,),
            )


def _draw_pair(pair: AnswerPair, colors: dict[str, str], *, key: str, is_bare: bool) -> None:
    if pair.is_identical:
        st.caption("Both gave the same answer, which counts as a tie and is not shown to raters.")
        _draw_text(pair.first_text)
        return
    st.html(
        figure(
            stacked_bar(_shares(pair, colors), height_px=BAR_PX), alt=f"Votes between {pair.first} and {pair.second}"
        )
    )
    if not pair.has_texts:
        if not is_bare:
            st.caption(
                f"The imported file has no answers of {plain(pair.first)} and {plain(pair.second)}, only their votes."
            )
        return
    is_long = max(len(pair.first_text), len(pair.second_text)) > LONG_TEXT
    for column, name, text in zip(
        st.columns(2), (pair.first, pair.second), (pair.first_text, pair.second_text), strict=True
    ):
        with (
            column,
            st.container(border=True, height=320 if is_long else "stretch", key=f"answer_{key}_{name == pair.first}"),
        ):
            st.caption(plain(name))
            _draw_text(text)
    for remark in pair.remarks:
        _draw_remark(remark)


def _shares(pair: AnswerPair, colors: dict[str, str]) -> list[Share]:
    return [
        Share(short_name(pair.first), pair.first_wins, str(pair.first_wins), colors.get(pair.first, ACCENT)),
        Share("tie", pair.ties, str(pair.ties), fade(MUTED, 0.55)),
        Share("both bad", pair.both_bad, str(pair.both_bad), MUTED),
        Share(short_name(pair.second), pair.second_wins, str(pair.second_wins), colors.get(pair.second, BLUE)),
    ]


def _draw_remark(remark: Remark) -> None:
    parts = [f"{remark.rater} ({remark.preferred})", *remark.reasons]
    if remark.flag:
        parts.append(f"flagged: {remark.flag}")
    st.caption(f":material/comment: {plain(' · '.join(parts))}")
    if remark.note:
        st.text(remark.note, width="stretch")
    if remark.rewrite:
        st.caption("Rewritten answer")
        st.text(remark.rewrite, width="stretch")


def _draw_text(text: str) -> None:
    if any(one.isprintable() and not one.isspace() for one in text):
        st.text(text, width="stretch")
    else:
        st.caption("(empty)")
