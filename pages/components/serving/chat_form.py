"""Form of a chat's settings: endpoints, system text, sampling, schema and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st
from pydantic import ValidationError

from backend.domain.serving.chat_settings import MAX_COLUMNS, ChatSettings
from backend.domain.validation import validation_message
from backend.services.serving.conversations import ConversationView
from backend.services.serving.endpoints import EndpointView
from pages.components.frame import plain


def draw_settings(
    endpoints: Sequence[EndpointView], conversation: ConversationView | None, *, requested: str | None
) -> ChatSettings | None:
    """Draw endpoints and settings of the next turn; None where they are not valid, with the problem shown."""
    names = [endpoint.name for endpoint in endpoints]
    stored = conversation.settings if conversation else None
    chosen = [name for name in (stored.endpoints if stored else [requested or names[0]]) if name in names] or names[:1]
    scope = conversation.id if conversation else "new"
    left, middle, right = st.columns([5, 2, 2], vertical_alignment="bottom")
    picked = left.multiselect(
        "Endpoints",
        names,
        default=chosen,
        max_selections=MAX_COLUMNS,
        key=f"endpoints_{scope}",
        help="Up to four: each message goes to all of them, and their answers stand side by side in random order.",
    )
    blind = middle.toggle(
        "Blind",
        value=stored.blind if stored else False,
        key=f"blind_{scope}",
        disabled=len(picked) < 2,
        help="Names, speed and length stay hidden until you vote. The answers appear together.",
    )
    with right.popover("Settings", icon=":material/tune:", width="stretch"):
        chats = any(endpoint.chats for endpoint in endpoints if endpoint.name in picked)
        values = draw_values(stored, scope=scope, temperature=0.0 if chats else 0.8)
    if not picked:
        st.info("Choose an endpoint to chat with.", icon=":material/dns:")
        return None
    try:
        return ChatSettings(endpoints=tuple(picked), blind=blind and len(picked) > 1, **values)
    except ValidationError as error:
        st.error(plain(validation_message(error)), icon=":material/error:")
        return None


def draw_values(stored: ChatSettings | None, *, scope: str, temperature: float) -> dict[str, Any]:
    """Draw system text, sampling, schema and tools with stored values; return them."""
    default = stored or ChatSettings(endpoints=("any",), temperature=temperature)
    system = st.text_area("System prompt", value=default.system, key=f"system_{scope}", placeholder="You are …", height=100)
    left, right = st.columns(2)
    values: dict[str, Any] = {
        "system": system,
        "temperature": left.slider(
            "Temperature", 0.0, 2.0, default.temperature, 0.05, key=f"temperature_{scope}", help="0 always takes the most likely token."
        ),
        "top_p": right.slider("Top p", 0.05, 1.0, default.top_p, 0.05, key=f"top_p_{scope}"),
        "max_tokens": int(left.number_input("Max new tokens", 1, 100_000, default.max_tokens, key=f"max_tokens_{scope}")),
    }
    seed = right.number_input(
        "Seed", min_value=0, value=default.seed, key=f"seed_{scope}", placeholder="random", help="The same seed gives the same answer."
    )
    values["seed"] = int(seed) if seed is not None else None
    values["token_view"] = st.toggle(
        "Token probabilities",
        value=default.token_view,
        key=f"token_view_{scope}",
        help="Stores each token's probability and alternatives.",
    )
    with st.expander("JSON schema and tools", icon=":material/data_object:"):
        values["json_schema"] = st.text_area(
            "JSON schema of the answer", value=default.json_schema, key=f"schema_{scope}", placeholder='{"type": "object", …}', height=100
        )
        values["tools"] = st.text_area(
            "Tools, in OpenAI's format", value=default.tools, key=f"tools_{scope}", placeholder='[{"type": "function", …}]', height=100
        )
    return values
