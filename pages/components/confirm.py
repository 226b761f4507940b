"""A button that names the consequences and asks for confirmation."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages.components.frame import errors_shown


def draw_confirmed(
    label: str, consequence: str, act: Callable[[], object], *, key: str, icon: str, disabled: bool = False
) -> None:
    """Draw the button; its popover shows the consequence, as Markdown, and a second one, which acts and draws the page
    again.
    """
    with st.popover(label, icon=f":material/{icon}:", key=f"ask_{key}", disabled=disabled):
        st.markdown(consequence)
        if st.button(label, type="primary", key=key, disabled=disabled):
            with errors_shown():
                act()
                st.rerun()
