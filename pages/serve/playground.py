"""Playground: chat with a deployed checkpoint, or send each message to two of them and vote."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.serving.protocol import ChatMessage, SamplingParams
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.serving.chat import Answer, Question, shuffle_sides, stream_answers, stream_within_context
from backend.services.serving.conversations import (
    ConversationView,
    add_message,
    build_prompt,
    change_conversation,
    delete_conversation,
    get_conversation,
    list_conversations,
    list_messages,
    start_conversation,
)
from backend.services.serving.deployments import start_endpoint
from backend.services.serving.endpoints import EndpointView, list_alias_endpoints, list_endpoints
from pages.components import routes
from pages.components.frame import empty_state, errors_shown, page_frame, plain
from pages.components.serving.history import DRAFT, RESEND, TRIM, draw_history

MAX_OFFERED = 3
DEFAULTS: dict[str, float | int] = {"top_p": 0.95, "max_tokens": 160}
UNAVAILABLE = "endpoint_unavailable"


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


@dataclass(frozen=True)
class TurnSettings:
    """Settings of the next turn. `trim`: leave out the oldest turns where the prompt exceeds the context."""

    endpoint: str
    other: str | None
    system: str
    params: SamplingParams
    trim: bool

    @property
    def sampling(self) -> dict[str, Any]:
        """Return the settings that a conversation stores."""
        return {**self.params.model_dump(mode="json", include={"temperature", "top_p", "max_tokens", "seed"}), TRIM: self.trim}


def draw_settings(endpoints: list[EndpointView], conversation: ConversationView | None) -> TurnSettings:
    """Draw endpoint choice, system prompt and sampling; return the settings of the next turn."""
    names = [endpoint.name for endpoint in endpoints]
    scope = conversation.id if conversation else "new"
    requested = conversation.endpoint if conversation else st.query_params.get("endpoint", names[0])
    left, right, more = st.columns([3, 3, 2], vertical_alignment="bottom")
    name = left.selectbox("Endpoint", names, index=names.index(requested) if requested in names else 0, key=f"endpoint_{scope}")
    others = [None, *(other for other in names if other != name)]
    beside = conversation.other_endpoint if conversation else None
    other = right.selectbox(
        "Compare with",
        others,
        index=others.index(beside) if beside in others else 0,
        format_func=lambda value: value or "None",
        key=f"other_{scope}",
        help="Each message goes to two endpoints; their answers stand on random sides, with a vote below.",
        placeholder="None",
        disabled=len(others) == 1,
    )
    with more.popover("Settings", icon=":material/tune:", width="stretch"):
        chats = any(endpoint.chats for endpoint in endpoints if endpoint.name == name)
        stored = {"temperature": 0.0 if chats else 0.8, **DEFAULTS, **(conversation.sampling if conversation else {})}
        system = st.text_area(
            "System prompt",
            value=conversation.system_prompt if conversation else "",
            key=f"system_{scope}",
            placeholder="You are …",
            height=100,
        )
        params = draw_sampling(stored, scope=scope, name=name)
        st.session_state.setdefault(f"trim_{scope}", bool(stored.get(TRIM)))
        trim = st.toggle("Leave out the oldest turns when the context is full", key=f"trim_{scope}")
    return TurnSettings(name, other, system, params, trim)


def draw_sampling(stored: dict[str, Any], *, scope: str, name: str) -> SamplingParams:
    """Draw the sampling fields with the stored values."""
    temperature = st.slider(
        "Temperature",
        0.0,
        2.0,
        float(stored["temperature"]),
        0.05,
        key=f"temperature_{scope}_{name}",
        help="0 always takes the most likely token.",
    )
    top_p = st.slider("Top p", 0.05, 1.0, float(stored["top_p"]), 0.05, key=f"top_p_{scope}")
    max_tokens = st.number_input("Max new tokens", 1, 8192, int(stored["max_tokens"]), key=f"max_tokens_{scope}")
    seed = st.number_input(
        "Seed", min_value=0, value=None, key=f"seed_{scope}", placeholder="random", help="The same seed gives the same answer."
    )
    return SamplingParams(
        temperature=float(temperature), top_p=float(top_p), max_tokens=int(max_tokens), seed=int(seed) if seed is not None else None
    )


def ask(
    ctx: Context,
    person: Person,
    conversation: ConversationView,
    endpoints: list[EndpointView],
    prompt: tuple[ChatMessage, ...],
    settings: TurnSettings,
) -> None:
    """Stream one turn and store it: complete, up to where it was stopped, or with its error."""
    draw_again_if_stopped()
    names = shuffle_sides([conversation.endpoint, *([conversation.other_endpoint] if conversation.other_endpoint else [])])
    checkpoints = {endpoint.name: endpoint.checkpoint_id for endpoint in endpoints}
    places = draw_places(len(names))
    answers = [Answer() for _ in names]
    questions = [Question(name, prompt, settings.params) for name in names]
    try:
        with closing(stream_within_context(ctx, questions) if settings.trim else stream_answers(ctx, questions)) as stream:
            for answers in stream:
                for place, answer in zip(places, answers, strict=True):
                    place.text(answer.text or "…", width="stretch")
    except RoundhouseError as error:
        answers = [Answer(error=f"{error.message} {error.remedy}".strip(), error_code=UNAVAILABLE) for _ in names]
    finally:  # a stopped answer is stored up to that point
        for branch, (name, answer) in enumerate(zip(names, answers, strict=True)):
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


def draw_places(number: int) -> list[DeltaGenerator]:
    """Draw placeholders for one or two streamed answers."""
    if number == 1:
        with st.chat_message("assistant", avatar=":material/train:"):
            return [st.empty()]
    places = []
    for column in st.columns(number):
        with column, st.container(border=True):
            places.append(st.empty())
    return places


def draw_again_if_stopped() -> None:
    """Rerun the page after its script was stopped, so that the stored part of the answer shows.

    A fragment's timer waits while the script runs and continues after a stop. After a whole answer the page is drawn without it.
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
            st.write("Delete this conversation and its messages? Votes cast in it stay, with the turns that they judged.")
            if st.button("Delete", key="delete_conversation", type="primary"):
                with errors_shown():
                    delete_conversation(ctx, conversation.id, person=person)
                    st.query_params.pop("conversation", None)
                    st.rerun()


def draw_unavailable(ctx: Context, person: Person, name: str, endpoints: list[EndpointView], *, running: list[EndpointView]) -> None:
    """Draw that an endpoint is stopped or unknown, with the alternatives."""
    is_known = any(endpoint.name == name for endpoint in endpoints)
    problem = f"The endpoint “{name}” is stopped." if is_known else f"There is no endpoint “{name}”."
    st.warning(plain(problem), icon=":material/dns:")
    with st.container(horizontal=True):
        if is_known and person.may_build and st.button("Start it", key="playground_start", type="primary", icon=":material/play_arrow:"):
            with errors_shown():
                start_endpoint(ctx, name, person=person)
                st.rerun()
        if st.button("See the endpoints", key="playground_endpoints", icon=":material/dns:"):
            st.switch_page(routes.ENDPOINTS)
        for other in running[:MAX_OFFERED]:
            if st.button(f"Chat with {plain(other.name)}", key=f"chat_{other.name}", icon=":material/chat:"):
                st.query_params["endpoint"] = other.name
                st.rerun()


def draw_notices(
    ctx: Context, person: Person, conversation: ConversationView, settings: TurnSettings, everything: list[EndpointView]
) -> None:
    """Draw a note if a conversation's endpoint is gone and its next turn goes to another."""
    running = {endpoint.name for endpoint in everything if endpoint.stopped_at is None}
    if conversation.endpoint not in running:
        known = any(endpoint.name == conversation.endpoint for endpoint in everything)
        st.info(
            f"“{plain(conversation.endpoint)}” {'is stopped' if known else 'was deleted'}: the next message goes to "
            f"“{plain(settings.endpoint)}”.",
            icon=":material/dns:",
        )
        if known and person.may_build and st.button(f"Start {plain(conversation.endpoint)}", key="playground_start"):
            with errors_shown():
                start_endpoint(ctx, conversation.endpoint, person=person)
                st.rerun()


def take_prompt() -> str | None:
    """Draw the input field, filled with a failed turn's draft; return the message to send."""
    if (draft := st.session_state.pop(DRAFT, None)) is not None:
        st.session_state["prompt"] = draft
    typed = st.chat_input("Write a message", key="prompt", submit_mode="stop")
    resent: str | None = st.session_state.pop(RESEND, None)
    return typed or resent


def store_settings(ctx: Context, person: Person, conversation: ConversationView | None, settings: TurnSettings) -> ConversationView:
    """Store the settings in the conversation, a new one where there is none yet; return it."""
    if conversation is None:
        return start_conversation(
            ctx,
            endpoint=settings.endpoint,
            other_endpoint=settings.other,
            system_prompt=settings.system,
            sampling=settings.sampling,
            person=person,
        )
    change_conversation(
        ctx,
        conversation.id,
        system_prompt=settings.system,
        sampling=settings.sampling,
        endpoint=settings.endpoint,
        other_endpoint=settings.other or "",
        person=person,
    )
    return get_conversation(ctx, conversation.id, person=person)


def main(ctx: Context, person: Person) -> None:
    """Draw the page."""
    current = st.query_params.get("conversation")
    draw_conversations(ctx, person, current)
    conversation = get_conversation(ctx, current, person=person) if current else None
    everything = [*list_endpoints(ctx), *list_alias_endpoints(ctx)]
    running = [endpoint for endpoint in everything if endpoint.stopped_at is None]
    if conversation is not None:
        draw_title(ctx, person, conversation)
    messages = list_messages(ctx, conversation.id, person=person) if conversation else []
    requested = st.query_params.get("endpoint")
    if conversation is None and requested and requested not in {endpoint.name for endpoint in running}:
        draw_unavailable(ctx, person, requested, everything, running=running)
        return
    if not running:
        empty_state("No endpoint is running. Deploy or start one to chat.", page=routes.ENDPOINTS, label="Endpoints")
        if conversation is not None:
            draw_history(ctx, person, conversation, messages)
        return
    if conversation is not None and st.session_state.pop(TRIM, None) == conversation.id:
        st.session_state[f"trim_{conversation.id}"] = True
    settings = draw_settings(running, conversation)
    draw_waiting(running, settings)
    if conversation is not None:
        draw_notices(ctx, person, conversation, settings, everything)
        draw_history(ctx, person, conversation, messages)
    hint = st.empty()
    if conversation is None:
        hint.caption("Messages and answers are stored; your conversations are listed in the sidebar.")
    prompt = take_prompt()
    if not prompt:
        return
    hint.empty()
    conversation = store_settings(ctx, person, conversation, settings)
    st.query_params["conversation"] = conversation.id
    with st.chat_message("user", avatar=":material/person:"):
        st.text(prompt, width="stretch")
    add_message(ctx, conversation.id, role="user", content=prompt, person=person)
    line = build_prompt(settings.system, list_messages(ctx, conversation.id, person=person))
    ask(ctx, person, conversation, running, line, settings)
    st.rerun()


def draw_waiting(running: list[EndpointView], settings: TurnSettings) -> None:
    """Draw a note for each chosen endpoint without a ready replica."""
    for endpoint in running:
        if endpoint.name in (settings.endpoint, settings.other) and not endpoint.num_ready:
            st.info(f"{plain(endpoint.name)} is {endpoint.state}. It responds once a replica is ready.", icon=":material/hourglass_top:")


with page_frame("Playground", "Chat with deployed checkpoints.") as (context_, person_):
    main(context_, person_)
