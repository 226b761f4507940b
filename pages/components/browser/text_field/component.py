"""Text field that reports its text while typing. Streamlit's own waits until the field loses focus."""

from __future__ import annotations

import streamlit as st

from pages.components.browser.modules import declare_component

_field = declare_component("roundhouse_live_text", '<label class="rl-host"></label>', "text_field/field.js")


def live_text(label: str, *, key: str, value: str, max_chars: int) -> str:
    """Draw a text field and return its text: `value` at first, then what was typed, 0.2 s after the last key."""
    typed = (st.session_state.get(key) or {}).get("text")
    value = value if typed is None else str(typed)
    data = {"label": label, "value": value, "max_chars": max_chars, "lines": 4}
    result = _field(key=key, data=data, default={"text": value}, on_text_change=lambda: None)
    return str(value if result.text is None else result.text)[:max_chars]
