"""Playground: chat with deployed checkpoints, one or up to four side by side, and vote."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from backend.domain.serving.chat import ChatSettings
from backend.domain.wording import shorten
from backend.services.context import Context, Person
from backend.services.serving.adapters import list_adapter_endpoints
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.chat.reading import chat_document
from backend.services.serving.chat.sharing import read_shared
from backend.services.serving.conversations import (
    ConversationView,
    chat_token,
    get_conversation,
    list_conversations,
)
from backend.services.serving.deployments import start_endpoint
from backend.services.serving.endpoints import EndpointView, list_alias_endpoints, list_endpoints
from pages.components import routes
from pages.components.browser.chat.component import chat
from pages.components.confirm import close_menu, menu_key
from pages.components.frame import empty_state, page_frame, plain, rerun_after
from pages.components.serving.chat_form import draw_settings, newest_draft
from pages.components.serving.chat_menu import draw_title

MAX_OFFERED = 3
RECENT = 3
"""Conversations that are one click away."""
EXAMPLES = (
    "Tell me a short story about a lighthouse.",
    "Explain what a tokenizer does, in three sentences.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Make a table of the planets with their diameters.",
)
STORIES = (
    "Once upon a time there was a",
    "The old mill by the river",
    "It was a cold morning, and",
    "Mira walked down to the sea and",
)
VOTE_NOTE = (
    "A vote stores these answers and the turns before them in the campaign Playground, and keeps them if you delete the"
    " conversation."
)


def draw_conversations(ctx: Context, person: Person, current: str | None) -> None:
    """Draw the way to a new conversation and to the person's others, searched over titles and messages, above the chat:
    the sidebar's end is below the window on most screens.
    """
    with st.container(horizontal=True, vertical_alignment="center", key="conversations"):
        if st.button("New", key="new_conversation", icon=":material/add:", disabled=current is None):
            st.query_params.from_dict({})
            st.rerun()
        newest = list_conversations(ctx, person=person)
        with st.popover("Conversations", key=menu_key("conversations_menu"), icon=":material/forum:"):
            query = st.text_input(
                "Search conversations",
                key="search_conversations",
                placeholder="Titles and messages",
                icon=":material/search:",
                label_visibility="collapsed",
            )
            rows = list_conversations(ctx, person=person, query=query) if query else newest
            if not rows:
                st.caption("No conversation holds these words." if query else "No conversation yet.")
            for row in rows:
                draw_conversation_link(row, key=f"open_{row.id}", is_current=row.id == current)
        with st.container(horizontal=True, key="recent_conversations", gap="xsmall", width="content"):
            for row in newest[:RECENT]:
                draw_conversation_link(row, key=f"recent_{row.id}", is_current=row.id == current)


def draw_conversation_link(row: ConversationView, *, key: str, is_current: bool) -> None:
    """Draw the title of a conversation, which opens it."""
    kind: Literal["secondary", "tertiary"] = "secondary" if is_current else "tertiary"
    if st.button(plain(shorten(row.title, 30)), key=key, type=kind):
        close_menu("conversations_menu")
        st.query_params.from_dict({"conversation": row.id})
        st.rerun()


def draw_shared(ctx: Context, token: str) -> None:
    """Draw a conversation that another person shares, read-only."""
    view = read_shared(ctx, token)
    st.subheader(plain(view.conversation.title), anchor=False)
    st.caption("Shared with you, read-only.")
    chat(token="", conversation=None, settings=None, facts={}, document=chat_document(view), key="shared_chat")


def draw_unavailable(
    ctx: Context, person: Person, name: str, endpoints: list[EndpointView], *, running: list[EndpointView]
) -> None:
    """Draw that an endpoint is stopped or unknown, with the alternatives."""
    is_known = any(endpoint.name == name for endpoint in endpoints)
    problem = f"The endpoint “{name}” is stopped." if is_known else f"There is no endpoint “{name}”."
    st.warning(plain(problem), icon=":material/dns:")
    with st.container(horizontal=True):
        if (
            is_known
            and person.may_build
            and st.button("Start it", key="playground_start", type="primary", icon=":material/play_arrow:")
        ):
            with rerun_after():
                start_endpoint(ctx, name, person=person)
        if st.button("See the endpoints", key="playground_endpoints", icon=":material/dns:"):
            st.switch_page(routes.ENDPOINTS, query_params={})
        for other in running[:MAX_OFFERED]:
            if st.button(f"Chat with {plain(other.name)}", key=f"chat_{other.name}", icon=":material/chat:"):
                st.query_params["endpoint"] = other.name
                st.rerun()


def draw_notices(
    ctx: Context,
    person: Person,
    conversation: ConversationView | None,
    settings: ChatSettings | None,
    everything: list[EndpointView],
) -> None:
    """Draw a note for a conversation's endpoint that is gone, and for chosen endpoints without a ready replica."""
    running = {endpoint.name: endpoint for endpoint in everything if endpoint.stopped_at is None}
    for name in dict.fromkeys(conversation.settings.endpoints if conversation else ()):
        if name in running:
            continue
        known = any(endpoint.name == name for endpoint in everything)
        next_one = f": the next message goes to “{plain(settings.endpoints[0])}”" if settings else ""
        st.info(f"“{plain(name)}” {'is stopped' if known else 'was deleted'}{next_one}.", icon=":material/dns:")
        if known and person.may_build and st.button(f"Start {plain(name)}", key=f"playground_start_{name}"):
            with rerun_after():
                start_endpoint(ctx, name, person=person)
    unready = (
        [running[name] for name in dict.fromkeys(settings.endpoints) if not running[name].num_ready] if settings else []
    )
    if unready:
        states = ", ".join(f"{plain(endpoint.name)} is {endpoint.state}" for endpoint in unready)
        st.info(
            f"{states}. {'It responds' if len(unready) == 1 else 'Each responds'} once a replica is ready.",
            icon=":material/hourglass_top:",
        )


def draw_chat(
    ctx: Context, person: Person, conversation: ConversationView | None, settings: ChatSettings | None, *, chats: bool
) -> None:
    """Draw the conversation; where one begins in the browser, put it into the address."""
    opened = chat(
        token=chat_token(ctx, person),
        conversation=conversation.id if conversation else None,
        settings=settings,
        facts=endpoint_facts(ctx, settings.endpoints) if settings else {},
        examples=EXAMPLES if chats else STORIES,
        vote_note=VOTE_NOTE,
        draft=newest_draft(),
        key="chat",
    )
    if opened and opened != st.session_state.get("chat_opened"):
        st.session_state["chat_opened"] = opened
        st.query_params["conversation"] = opened
        st.rerun()


def main(ctx: Context, person: Person) -> None:
    """Draw the page."""
    if shared := st.query_params.get("shared"):
        draw_shared(ctx, shared)
        return
    current = st.query_params.get("conversation")
    draw_conversations(ctx, person, current)
    conversation = get_conversation(ctx, current, person=person) if current else None
    endpoints = [*list_endpoints(ctx), *list_alias_endpoints(ctx), *list_adapter_endpoints(ctx)]
    everything = [endpoint for endpoint in endpoints if endpoint.writes]
    running = [endpoint for endpoint in everything if endpoint.stopped_at is None]
    if conversation is not None:
        draw_title(ctx, person, conversation)
    requested = st.query_params.get("endpoint")
    if conversation is None and requested and requested not in {endpoint.name for endpoint in running}:
        draw_unavailable(ctx, person, requested, everything, running=running)
        return
    settings = None
    if running:
        settings = draw_settings(ctx, person, running, conversation, requested=requested)
    else:
        empty_state("No endpoint is running. Deploy or start one to chat.", page=routes.ENDPOINTS, label="Endpoints")
    draw_notices(ctx, person, conversation, settings, everything)
    if conversation is None and settings is None:
        return
    chats = settings is not None and any(endpoint.chats for endpoint in running if endpoint.name in settings.endpoints)
    draw_chat(ctx, person, conversation, settings, chats=chats)


with page_frame("Playground", "Chat with deployed checkpoints.") as (context_, person_):
    main(context_, person_)
