"""The playground's conversation in the browser: answers as they arrive, drawn as Markdown without markup, and the field
to write in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from backend.domain.serving.chat import ChatSettings
from backend.services.serving.chat.contexts import EndpointFacts
from pages.components.browser.ballot.component import maths_url
from pages.components.browser.modules import declare_component

_chat = declare_component(
    "roundhouse_chat",
    '<div class="pg-host"></div>',
    "chat/chat.js",
    styles=("chat/style.css", "chat/columns.css", "ballot/text.css"),
)
API = "/playground/api"


@dataclass(frozen=True)
class ChatDraft:
    """A message to write into the field, once. `id` tells it from the one before."""

    id: str
    text: str


def chat(
    *,
    token: str,
    conversation: str | None,
    settings: ChatSettings | None,
    facts: Mapping[str, EndpointFacts],
    examples: Sequence[str] = (),
    vote_note: str = "",
    draft: ChatDraft | None = None,
    document: Mapping[str, object] | None = None,
    key: str,
) -> str | None:
    """Draw a conversation, or the start of a new one; return the id of the one that is open in the browser, if it began
    there.

    A `draft` is written into the field once. With a `document` it is drawn read-only from there, and nothing is asked
    of the server. `vote_note` says where votes go.
    """
    state = st.session_state.get(key) or {}
    contexts = {name: fact.context for name, fact in facts.items() if fact.context}
    shortest = min(contexts, key=lambda name: contexts[name], default=None)
    is_hidden = settings is not None and settings.blind
    result = _chat(
        key=key,
        data={
            "url": API,
            "token": token,
            "renewed": state.get("renew"),
            "conversation": conversation,
            "settings": settings.model_dump(mode="json") if settings else None,
            "limit": contexts[shortest] if shortest else None,
            "limit_of": ("one of them" if is_hidden else shortest) if len(set(contexts.values())) > 1 else None,
            "examples": list(examples),
            "vote_note": vote_note,
            "draft": None if draft is None else {"id": draft.id, "text": draft.text},
            "maths": maths_url(),
            "document": document,
        },
        default={"opened": None},
        on_opened_change=lambda: None,
        on_renew_change=lambda: None,
        on_changed_change=lambda: None,
    )
    return result.opened if isinstance(result.opened, str) else None
