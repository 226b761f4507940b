"""A button that names the consequences and asks for confirmation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import streamlit as st

from pages.components.frame import handled, rerun_after


def menu_key(name: str) -> str:
    """Return the key of a popover that `close_menu` closes: a browser keeps one open for as long as its key stays. It
    also is that of a button which acts once: a second click in the meantime is on a button that is gone.
    """
    return f"{name}_{st.session_state.get(f'{name}_closed', 0)}"


def close_menu(name: str) -> None:
    """Close a popover whose action is done, so that it does not lie over what it made; or renew a button."""
    st.session_state[f"{name}_closed"] = st.session_state.get(f"{name}_closed", 0) + 1


def draw_confirmed(
    label: str,
    consequence: str,
    act: Callable[[], object],
    *,
    key: str,
    icon: str = "delete",
    disabled: bool = False,
    type: Literal["secondary", "tertiary"] = "tertiary",
    reason_key: str = "",
) -> None:
    """Draw the button; its popover shows the consequence, as Markdown, and one that acts and draws the page again.
    With `reason_key` it has a field for a reason, which may stay empty, of this key.
    """
    with st.popover(label, icon=f":material/{icon}:", key=f"ask_{key}", disabled=disabled, type=type):
        st.markdown(consequence)
        if reason_key:
            st.text_input("Reason", key=reason_key, help="Optional; stored with the decision.")
        _draw_act(label, act, key=key, disabled=disabled)


def draw_confirmed_in_menu(
    label: str, consequence: str, act: Callable[[], object], *, key: str, icon: str = "delete", disabled: bool = False
) -> None:
    """Draw the button where a popover is open, which can't hold another: the question takes its place."""
    asks = f"asks_{key}"
    if not st.session_state.get(asks):
        st.button(
            label,
            icon=f":material/{icon}:",
            key=f"ask_{key}",
            disabled=disabled,
            on_click=handled(st.session_state.update),
            kwargs={asks: True},
        )
        return
    with st.container(border=True):
        st.markdown(consequence)
        with st.container(horizontal=True):
            _draw_act(label, act, key=key, disabled=disabled)
            st.button("Keep", key=f"keep_{key}", on_click=handled(st.session_state.update), kwargs={asks: False})


def _draw_act(label: str, act: Callable[[], object], *, key: str, disabled: bool) -> None:
    if st.button(label, type="primary", key=key, disabled=disabled):
        with rerun_after():
            act()
            st.session_state.pop(f"asks_{key}", None)
