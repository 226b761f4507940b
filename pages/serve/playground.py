"""Playground: chat with a deployed checkpoint, or put one question to two of them and vote."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from itertools import count

import streamlit as st

from backend.domain.serving.protocol import ChatMessage, Role, SamplingParams
from backend.services.battles.ballots import record_side_by_side_vote
from backend.services.context import Context, Person
from backend.services.serving.chat import Answer, Question, shuffle_sides, stream_answers
from backend.services.serving.conversations import (
    ConversationView,
    MessageView,
    add_message,
    change_conversation,
    delete_conversation,
    get_conversation,
    list_conversations,
    list_messages,
    set_vote,
    start_conversation,
)
from backend.services.serving.endpoints import EndpointView, list_endpoints
from pages.components import routes
from pages.components.frame import empty_state, errors_shown, page_frame, plain

VOTES = (("A", "Left is better"), ("B", "Right is better"), ("TIE", "Tie"), ("BOTH_BAD", "Both bad"))
DEFAULTS: dict[str, float | int] = {"top_p": 0.95, "max_tokens": 160}


def shorten(title: str, *, limit: int = 30) -> str:
    """Return a title that fits one line of the sidebar."""
    return title if len(title) <= limit else title[: limit - 1].rstrip() + "…"


def draw_conversations(ctx: Context, person: Person, current: str | None) -> None:
    """Draw the person's conversations in the sidebar."""
    with st.sidebar:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**Conversations**")
            st.space("stretch")
            if st.button("New", key="new_conversation", icon=":material/add:", type="tertiary"):
                st.query_params.pop("conversation", None)
                st.rerun()
        for row in list_conversations(ctx, person=person):
            chosen = row.id == current
            if st.button(plain(shorten(row.title)), key=f"open_{row.id}", type="secondary" if chosen else "tertiary"):
                st.query_params["conversation"] = row.id
                st.rerun()


def draw_settings(endpoints: list[EndpointView], conversation: ConversationView | None) -> tuple[str, str | None, str, SamplingParams]:
    """Draw endpoint choice, system prompt and sampling; return what the next turn is asked with."""
    names = [endpoint.name for endpoint in endpoints]
    scope = conversation.id if conversation else "new"
    wanted = conversation.endpoint if conversation else st.query_params.get("endpoint", names[0])
    left, right, more = st.columns([3, 3, 2], vertical_alignment="bottom")
    name = left.selectbox("Endpoint", names, index=names.index(wanted) if wanted in names else 0, key=f"endpoint_{scope}")
    chats = any(endpoint.chats for endpoint in endpoints if endpoint.name == name)
    kept = {"temperature": 0.0 if chats else 0.8, **DEFAULTS, **(conversation.sampling if conversation else {})}
    others = [None, *(other for other in names if other != name)]
    beside = conversation.other_endpoint if conversation else None
    other = right.selectbox(
        "Compare with",
        others,
        index=others.index(beside) if beside in others else 0,
        format_func=lambda value: value or "nobody",
        key=f"other_{scope}",
        help="One prompt to two endpoints side by side, on shuffled sides, with a vote under the answers.",
        disabled=len(others) == 1,
    )
    with more.popover("Settings", icon=":material/tune:", width="stretch"):
        system = st.text_area(
            "System prompt",
            value=conversation.system_prompt if conversation else "",
            key=f"system_{scope}",
            placeholder="You are …",
            height=100,
        )
        temperature = st.slider(
            "Temperature",
            0.0,
            2.0,
            float(kept["temperature"]),
            0.05,
            key=f"temperature_{scope}_{name}",
            help="0 always takes the likeliest token.",
        )
        top_p = st.slider("Top p", 0.05, 1.0, float(kept["top_p"]), 0.05, key=f"top_p_{scope}")
        max_tokens = st.number_input("Longest answer, in tokens", 1, 8192, int(kept["max_tokens"]), key=f"max_tokens_{scope}")
        seed = st.number_input(
            "Seed", min_value=0, value=None, key=f"seed_{scope}", placeholder="random", help="The same seed gives the same answer."
        )
    params = SamplingParams(
        temperature=float(temperature), top_p=float(top_p), max_tokens=int(max_tokens), seed=int(seed) if seed is not None else None
    )
    return name, other, system, params


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
    st.caption(" · ".join(parts))


def draw_answer(message: MessageView, *, named: bool) -> None:
    """Draw one stored answer, as plain text."""
    if named:
        st.caption(plain(message.endpoint or ""))
    st.text(message.content or "(no text)", width="stretch")
    if error := message.usage.get("error"):
        st.error(plain(str(error)), icon=":material/error:")
    draw_footer(message.usage)


def draw_history(ctx: Context, person: Person, conversation: ConversationView, messages: list[MessageView]) -> None:
    """Draw every turn; a side-by-side turn in two columns with its vote."""
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
                    draw_answer(message, named=message.vote is not None)
            draw_vote(ctx, person, conversation, position, group, messages)


def draw_vote(
    ctx: Context, person: Person, conversation: ConversationView, position: int, pair: list[MessageView], messages: list[MessageView]
) -> None:
    """Draw the vote under two answers; names are shown once it is cast."""
    label = pair[0].vote
    if label is not None:
        st.caption(f"Your vote: {dict(VOTES)[label].lower()}.")
        return
    with st.container(horizontal=True, horizontal_alignment="center"):
        for value, text in VOTES:
            if st.button(text, key=f"vote_{conversation.id}_{position}_{value}"):
                with errors_shown():
                    asked = main_line(conversation.system_prompt, [m for m in messages if m.position < position])
                    record_side_by_side_vote(
                        ctx,
                        messages=[{"role": m.role.value, "content": m.content} for m in asked],
                        answer_a=pair[0].content,
                        answer_b=pair[1].content,
                        checkpoint_a=pair[0].checkpoint_id or "",
                        checkpoint_b=pair[1].checkpoint_id or "",
                        label=value,
                        person=person,
                    )
                    set_vote(ctx, conversation.id, position, value, person=person)
                    st.rerun()


def main_line(system: str, messages: list[MessageView]) -> tuple[ChatMessage, ...]:
    """Return the messages that the next turn is asked with: the left answers of side-by-side turns."""
    turns = [ChatMessage(role=Role(m.role), content=m.content) for m in messages if m.branch == 0]
    return ((ChatMessage(role=Role.SYSTEM, content=system),) if system.strip() else ()) + tuple(turns)


def ask(
    ctx: Context,
    person: Person,
    conversation: ConversationView,
    endpoints: list[EndpointView],
    asked: tuple[ChatMessage, ...],
    params: SamplingParams,
) -> None:
    """Stream one turn and keep it, whole or stopped."""
    draw_again_if_stopped()
    names = shuffle_sides([conversation.endpoint, *([conversation.other_endpoint] if conversation.other_endpoint else [])])
    checkpoints = {endpoint.name: endpoint.checkpoint_id for endpoint in endpoints}
    if len(names) == 1:
        with st.chat_message("assistant", avatar=":material/train:"):
            places = [st.empty()]
    else:
        places = []
        for column in st.columns(2):
            with column, st.container(border=True):
                places.append(st.empty())
    answers: list[Answer] = []
    try:
        with closing(stream_answers(ctx, [Question(name, asked, params) for name in names])) as stream:
            for answers in stream:
                for place, answer in zip(places, answers, strict=True):
                    place.text(answer.text or "…", width="stretch")
    finally:  # a stopped answer is kept as far as it came
        for branch, (name, answer) in enumerate(zip(names, answers, strict=False)):
            add_message(
                ctx,
                conversation.id,
                role="assistant",
                content=answer.text,
                branch=branch,
                endpoint=name,
                checkpoint_id=checkpoints.get(name),
                usage=answer.as_usage(),
                person=person,
            )


def draw_again_if_stopped() -> None:
    """Draw the page again after its script was stopped, which is the end of a script: what was kept of the answer is shown at once.

    A fragment's timer waits while the script runs, and goes on where it was stopped. After a whole answer the page is drawn without it.
    """
    calls = count()

    def draw_again() -> None:
        if next(calls):
            st.rerun(scope="app")

    st.fragment(draw_again, run_every=0.5)()


def draw_title(ctx: Context, person: Person, conversation: ConversationView) -> None:
    """Draw the conversation's title with rename and delete."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(conversation.title), anchor=False)
        st.space("stretch")
        with st.popover("", icon=":material/edit:", type="tertiary", help="Rename"):
            title = st.text_input("Title", conversation.title, key=f"title_{conversation.id}")
            if st.button("Rename", key="rename_conversation", type="primary"):
                with errors_shown():
                    change_conversation(ctx, conversation.id, title=title, person=person)
                    st.rerun()
        with st.popover("", icon=":material/delete:", type="tertiary", help="Delete"):
            st.write("Delete this conversation?")
            if st.button("Delete", key="delete_conversation", type="primary"):
                delete_conversation(ctx, conversation.id, person=person)
                st.query_params.pop("conversation", None)
                st.rerun()


def main(ctx: Context, person: Person) -> None:
    """Draw the page."""
    current = st.query_params.get("conversation")
    draw_conversations(ctx, person, current)
    conversation = get_conversation(ctx, current, person=person) if current else None
    endpoints = list_endpoints(ctx, include_stopped=False)
    if conversation is not None:
        draw_title(ctx, person, conversation)
    messages = list_messages(ctx, conversation.id, person=person) if conversation else []
    if not endpoints:
        empty_state("No endpoint is deployed. Deploy a checkpoint to chat with it.", page=routes.ENDPOINTS, label="Deploy a checkpoint")
        if conversation is not None:
            draw_history(ctx, person, conversation, messages)
        return
    name, other, system, params = draw_settings(endpoints, conversation)
    for endpoint in endpoints:
        if endpoint.name in (name, other) and not endpoint.num_ready:
            st.info(
                f"{plain(endpoint.name)} is {endpoint.state}. It answers as soon as a replica is ready.", icon=":material/hourglass_top:"
            )
    if conversation is not None:
        draw_history(ctx, person, conversation, messages)
    hint = st.empty()
    if conversation is None:
        hint.caption("Say something below. What you write and what comes back is kept; the list is on the left.")
    prompt = st.chat_input("Write a message", key="prompt", submit_mode="stop")
    if not prompt:
        return
    hint.empty()
    sampling = params.model_dump(mode="json", include={"temperature", "top_p", "max_tokens", "seed"})
    if conversation is None:
        conversation = start_conversation(ctx, endpoint=name, other_endpoint=other, system_prompt=system, sampling=sampling, person=person)
    else:
        change_conversation(
            ctx, conversation.id, system_prompt=system, sampling=sampling, endpoint=name, other_endpoint=other or "", person=person
        )
        conversation = get_conversation(ctx, conversation.id, person=person)
    st.query_params["conversation"] = conversation.id
    with st.chat_message("user", avatar=":material/person:"):
        st.text(prompt, width="stretch")
    add_message(ctx, conversation.id, role="user", content=prompt, person=person)
    asked = main_line(system, list_messages(ctx, conversation.id, person=person))
    ask(ctx, person, conversation, endpoints, asked, params)
    st.rerun()


with page_frame("Playground", "Talk to what you have deployed.") as (context_, person_):
    main(context_, person_)
