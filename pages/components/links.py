"""A name in a list that leads to its own page."""

from __future__ import annotations

import streamlit as st

from pages.components.frame import plain


def row_link(name: str, *, page: str, query: dict[str, str], icon: str, key: str) -> None:
    """Draw a name as a quiet button. A page link would mark every line of the page that is open as the current one."""
    if st.button(plain(name), type="tertiary", icon=f":material/{icon}:", key=key, wrap=True):
        st.switch_page(page, query_params=query)


def back_link(label: str, *, page: str, key: str, query: dict[str, str] | None = None) -> None:
    """Draw the way back from one thing to the list, or to what `query` names."""
    if st.button(label, type="tertiary", icon=":material/arrow_back:", key=key):
        st.switch_page(page, query_params=query)
