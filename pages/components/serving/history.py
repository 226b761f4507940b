"""Turns of a conversation: questions, answers with their speed, votes on side-by-side answers, and remedies for a failed turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import streamlit as st

from backend.domain.serving.protocol import CONTEXT_EXCEEDED, Role
from backend.domain.wording import plural
from backend.services.battles.side_by_side import record_side_by_side_vote
from backend.services.context import Context, Person
from backend.services.serving.conversations import (
    ConversationView,
    MessageView,
    build_prompt,
    drop_last_turn,
    set_vote,
)
from pages.components.frame import errors_shown, plain

VOTES = (("A", "Left is better"), ("B", "Right is better"), ("TIE", "Tie"), ("BOTH_BAD", "Both bad"))
RESEND, DRAFT = "playground_resend", "playground_draft"
"""Keys of the session state: a message to send in the next run of the page, and one to put into the input field."""

TRIM = "trim_history"
"""Field of a conversation's sampling: leave out the oldest turns where the prompt exceeds the context. In the session state: the
conversation that does so from its next turn.
"""


def draw_footer(usage: dict[str, object]) -> None:
    """Draw time to first token, rate and length under an answer."""
    parts = []
    if isinstance(ttft := usage.get("ttft_ms"), int | float):
        parts.append(f"first token {ttft:.0f} ms")
    if isinstance(rate := usage.get("tok_per_sec"), int | float):
        parts.append(f"{rate:.0f} tokens/s")
    parts.append(f"{usage.get('completion_tokens', 0)} tokens")
    reason = usage.get("finish_reason")
    if reason == "length":
        parts.append("reached the length limit")
    elif reason in ("stopped", "cancelled"):
        parts.append("stopped by you")
    if isinstance(left_out := usage.get("left_out"), int) and left_out:
        parts.append(f"{plural(left_out, 'oldest turn')} left out")
    st.caption(" · ".join(parts))


def draw_answer(message: MessageView, *, named: bool) -> None:
    """Draw one stored answer, as plain text."""
    if named:
        st.caption(plain(message.endpoint or ""))
    if error := message.usage.get("error"):
        st.error(plain(str(error)), icon=":material/error:")
    if not message.has_failed:
        st.text(message.content or "(no text)", width="stretch")
        draw_footer(message.usage)


VOTE_STORES = (
    "A vote stores both answers and the turns before them in the campaign Playground, and keeps them if you delete the conversation."
)


def draw_history(ctx: Context, person: Person, conversation: ConversationView, messages: Sequence[MessageView]) -> None:
    """Draw every turn, side-by-side answers in two columns with their vote, and remedies under a failed last turn."""
    turns: dict[int, list[MessageView]] = defaultdict(list)
    for message in messages:
        turns[message.position].append(message)
    for position, group in turns.items():
        if group[0].role == "user":
            with st.chat_message("user", avatar=":material/person:"):
                st.text(group[0].content, width="stretch")
        elif len(group) == 1:
            with st.chat_message("assistant", avatar=":material/train:"):
                draw_answer(group[0], named=False)
        else:
            for column, message in zip(st.columns(2), group, strict=False):
                with column, st.container(border=True):
                    draw_answer(message, named=message.vote is not None or message.has_failed)
            if not any(message.has_failed for message in group):
                draw_vote(ctx, person, conversation, position, group, messages)
    last = turns[max(turns)] if turns else []
    if any(message.has_failed for message in last):
        draw_cures(ctx, person, conversation, messages, last)


def draw_cures(
    ctx: Context, person: Person, conversation: ConversationView, messages: Sequence[MessageView], failed: Sequence[MessageView]
) -> None:
    """Draw the remedies after a failed turn. The message is kept: it can be sent again, moved to a new conversation, or edited."""
    is_too_long = any(message.usage.get("error_code") == CONTEXT_EXCEEDED for message in failed)
    has_history = sum(message.role == Role.USER for message in build_prompt("", messages)) > 0
    with st.container(horizontal=True):
        if is_too_long and has_history:
            if st.button("Leave out the oldest turns", key="cure_trim", type="primary", icon=":material/compress:"):
                st.session_state[TRIM] = conversation.id
                st.session_state[RESEND] = drop_last_turn(ctx, conversation.id, person=person)
                st.rerun()
            if st.button("Continue in a new conversation", key="cure_new", icon=":material/add:"):
                st.session_state[DRAFT] = drop_last_turn(ctx, conversation.id, person=person)
                st.query_params.pop("conversation", None)
                st.query_params["endpoint"] = conversation.endpoint
                st.rerun()
        elif not is_too_long and st.button("Try again", key="cure_retry", type="primary", icon=":material/refresh:"):
            st.session_state[RESEND] = drop_last_turn(ctx, conversation.id, person=person)
            st.rerun()
        if st.button("Edit the message", key="cure_edit", icon=":material/edit:"):
            st.session_state[DRAFT] = drop_last_turn(ctx, conversation.id, person=person)
            st.rerun()


def draw_vote(
    ctx: Context,
    person: Person,
    conversation: ConversationView,
    position: int,
    pair: Sequence[MessageView],
    messages: Sequence[MessageView],
) -> None:
    """Draw the vote under two answers; names are shown once it is cast."""
    label = pair[0].vote
    if label is not None:
        st.caption(f"Your vote: {dict(VOTES)[label].lower()}.")
        return
    with st.container(horizontal_alignment="center"):
        st.caption(VOTE_STORES, text_alignment="center")
    with st.container(horizontal=True, horizontal_alignment="center"):
        for value, text in VOTES:
            if st.button(text, key=f"vote_{conversation.id}_{position}_{value}"):
                with errors_shown():
                    prompt = build_prompt(conversation.system_prompt, [m for m in messages if m.position < position])
                    record_side_by_side_vote(
                        ctx,
                        messages=[{"role": m.role.value, "content": m.content} for m in prompt],
                        answer_a=pair[0].content,
                        answer_b=pair[1].content,
                        checkpoint_a=pair[0].checkpoint_id or "",
                        checkpoint_b=pair[1].checkpoint_id or "",
                        label=value,
                        person=person,
                    )
                    set_vote(ctx, conversation.id, position, value, person=person)
                    st.rerun()
