"""Links from a name in a list to its page, and back."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context
from pages.components.frame import plain, with_code


def row_link(name: str, *, page: str, query: dict[str, str], icon: str, key: str, help: str | None = None) -> None:
    """Draw a name as a tertiary button. A page link would highlight every row of the current page as current."""
    if st.button(
        plain(name),
        type="tertiary",
        icon=f":material/{icon}:",
        key=key,
        wrap=True,
        help=None if help is None else plain(help),
    ):
        st.switch_page(page, query_params=query)


def draw_who_reaches(ctx: Context, url: str) -> None:
    """Draw that an address opens on this machine alone, where it does."""
    if words := ctx.who_reaches(url):
        st.caption(f":material/computer: {with_code(words)}")


def sign_out_link() -> None:
    """Draw the way out of an account, in this tab: a link button would leave the signed-in page open beside it."""
    st.html('<a href="/auth/logout" style="color:inherit">Sign out</a>')


def back_link(label: str, *, page: str, key: str, query: dict[str, str] | None = None) -> None:
    """Draw the link back to a list, or to the item that `query` names."""
    if st.button(label, type="tertiary", icon=":material/arrow_back:", key=key):
        st.switch_page(page, query_params=query or {})
