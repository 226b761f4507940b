"""Menus beside a conversation's title: rename, share, export, code, delete; and the card of its endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from backend.domain.serving.call_code import curl_code, python_code
from backend.domain.serving.chat import ChatSettings, selected_line
from backend.domain.serving.protocol import ChatMessage, Role
from backend.services.context import Context, Person
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.chat.sharing import Format, export_chat, list_shares, revoke_share, share_conversation
from backend.services.serving.conversations import (
    ConversationView,
    build_prompt,
    delete_conversation,
    list_messages,
    rename_conversation,
)
from backend.services.serving.endpoints import EndpointView
from pages.components import routes
from pages.components.confirm import draw_confirmed_in_menu
from pages.components.downloads import draw_download
from pages.components.frame import plain, rerun_after, title_tab
from pages.components.links import draw_who_reaches, page_link
from pages.components.people.keys import key_to_show

EXPORTS: tuple[tuple[Format, str, str], ...] = (
    ("markdown", "Markdown", "md"),
    ("json", "JSON", "json"),
    ("row", "Dataset row (JSON lines)", "jsonl"),
)
MAX_TEMPLATE = 6_000


def draw_title(ctx: Context, person: Person, conversation: ConversationView) -> None:
    """Draw the conversation's title with its menus."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(conversation.title), anchor=False)
        title_tab(conversation.title)
        st.space("stretch")
        with st.popover("", icon=":material/share:", type="tertiary", help="Share", key="share_menu"):
            draw_shares(ctx, person, conversation)
        with st.popover("", icon=":material/download:", type="tertiary", help="Export", key="export_menu"):
            draw_chat_downloads(ctx, person, conversation)
        with st.popover("", icon=":material/edit:", type="tertiary", help="Rename", key="rename_menu"):
            title = st.text_input("Title", conversation.title, key=f"title_{conversation.id}")
            if st.button("Rename", key="rename_conversation", type="primary"):
                with rerun_after():
                    rename_conversation(ctx, conversation.id, title, person=person)
        with st.popover("", icon=":material/delete:", type="tertiary", help="Delete", key="delete_menu"):
            st.write(
                "Delete this conversation and its messages? Votes and thumbs given in it stay, with the turns that they"
                " judged."
            )
            if st.button("Delete", key="delete_conversation", type="primary"):
                with rerun_after():
                    delete_conversation(ctx, conversation.id, person=person)
                    st.query_params.pop("conversation", None)


def draw_shares(ctx: Context, person: Person, conversation: ConversationView) -> None:
    """Draw the links of a conversation, with a button for another."""
    reader = "Accounts that may open the playground" if ctx.sign_in else "Users of this machine"
    st.caption(f"{reader} can read a shared conversation up to its last message now. Later messages stay private.")
    for share in list_shares(ctx, conversation.id, person=person):
        st.code(share.url, language=None, wrap_lines=True)
        draw_who_reaches(ctx, share.url)
        draw_confirmed_in_menu(
            "Revoke",
            "Who follows this link sees nothing from now on, permanently.",
            partial(revoke_share, ctx, share.id, person=person),
            key=f"revoke_{share.id}",
            icon="link_off",
        )
    if st.button("Create a link", key="create_share", type="primary", icon=":material/add_link:"):
        with rerun_after():
            share_conversation(ctx, conversation.id, person=person)


def draw_chat_downloads(ctx: Context, person: Person, conversation: ConversationView) -> None:
    """Draw a download in each form."""
    for form, label, ending in EXPORTS:
        make, name = partial(export_chat, ctx, conversation.id, form, person=person), f"conversation-{conversation.id}"
        draw_download(label, make, f"{name}.{ending}", key=f"export_{form}", icon=None, width="stretch")


def draw_code(ctx: Context, person: Person, conversation: ConversationView | None, settings: ChatSettings) -> None:
    """Draw the next call as curl and Python."""
    settings, messages = settings.of_side(0), tuple[ChatMessage, ...]()
    if conversation is not None:
        stored = list_messages(ctx, conversation.id, person=person)
        by_id = {message.id: message for message in stored}
        messages = build_prompt(
            settings.system, [by_id[step.selected] for step in selected_line(stored, conversation.leaf_id)]
        )
    elif settings.system.strip():
        messages = (ChatMessage(role=Role.SYSTEM, content=settings.system),)
    if not messages or messages[-1].role not in (Role.USER, Role.TOOL):
        messages = (*messages, ChatMessage(role=Role.USER, content="Hello"))
    body, key = settings.body(settings.endpoints[0], messages), key_to_show(ctx)
    python, curl = st.tabs(["Python", "curl"])
    python.code(python_code(ctx.gateway_url, body, key=key), language="python", wrap_lines=True)
    curl.code(curl_code(ctx.gateway_url, body, key=key), language="bash", wrap_lines=True)


def draw_chosen_endpoints(ctx: Context, endpoints: Sequence[EndpointView], settings: ChatSettings) -> None:
    """Draw checkpoint, context and chat template of each chosen endpoint."""
    facts = endpoint_facts(ctx, settings.endpoints)
    for endpoint in endpoints:
        fact = facts.get(endpoint.name)
        if fact is None:
            continue
        with st.container(border=True):
            st.markdown(f"**{plain(endpoint.name)}**")
            page_link(routes.CHECKPOINTS, plain(fact.checkpoint), {"checkpoint": fact.checkpoint_id or ""})
            context = f"{fact.context:,} tokens" if fact.context else "unknown"
            kind = "trained on conversations" if endpoint.chats else "continues text"
            st.caption(plain(f"Context {context} · {kind} · {endpoint.num_ready} ready"))
            if fact.template:
                with st.expander("Chat template", key=f"template_{endpoint.name}"):
                    st.code(fact.template[:MAX_TEMPLATE], language="jinja2", wrap_lines=True)
            page_link(routes.ENDPOINTS, "Endpoint", {"name": endpoint.name})
