"""Links from a name in a list to its page, and back."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from backend.services.context import Context
from backend.services.serving.endpoints import list_endpoints
from pages.components import routes
from pages.components.frame import handled, plain, with_code


def row_link(name: str, *, page: str, query: dict[str, str], key: str, icon: str = "", help: str | None = None) -> None:
    """Draw a name as a tertiary button, by default with its page's icon. A page link would highlight every row of the
    current page as current.
    """
    if st.button(
        plain(name),
        type="tertiary",
        icon=f":material/{icon or routes.icon_of(page)}:",
        key=key,
        wrap=True,
        help=None if help is None else plain(help),
    ):
        st.switch_page(page, query_params=query)


def tab_link(name: str, tab: str, *, key: str, **widgets: str) -> None:
    """Draw the way to another tab of the same page as a tertiary button. `widgets`: values of that tab's widgets by
    their keys, which are parts of the address.
    """

    def follow() -> None:
        st.session_state.update(tab=tab, **widgets)
        set_parameters(**widgets)  # the address follows a widget that was drawn before, as the tabs were

    st.button(plain(name), type="tertiary", icon=":material/flag:", key=key, wrap=True, on_click=handled(follow))


def set_parameters(**values: str) -> None:
    """Set parts of the address, or take empty ones out."""
    for name, value in values.items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)


def page_link(
    page: str, label: str, query: dict[str, str] | None = None, *, icon: str = "", place: Any = st, **more: Any
) -> None:
    """Draw a link to a page, by default with its icon."""
    place.page_link(page, label=label, icon=f":material/{icon or routes.icon_of(page)}:", query_params=query, **more)


def chat_endpoints(ctx: Context) -> dict[str, str]:
    """Return the ready endpoint that serves each checkpoint, by the checkpoint's id."""
    return {one.checkpoint_id: one.name for one in list_endpoints(ctx) if one.num_ready and one.writes}


def draw_chat_link(checkpoint_id: str, endpoints: Mapping[str, str]) -> None:
    """Draw the way to a chat with a checkpoint: at the endpoint that serves it, or by deploying it."""
    if (name := endpoints.get(checkpoint_id)) is not None:
        st.page_link(routes.PLAYGROUND, label="Chat", icon=":material/chat:", query_params={"endpoint": name})
    else:
        query = {"checkpoint": checkpoint_id}
        st.page_link(routes.ENDPOINTS, label="Deploy and chat", icon=":material/chat:", query_params=query)


def draw_who_reaches(ctx: Context, url: str) -> None:
    """Draw that an address opens on this machine alone, where it does."""
    if words := ctx.who_reaches(url):
        st.caption(f":material/computer: {with_code(words)}")


def sign_out_link() -> None:
    """Draw the way out of an account, in this tab: a link button would leave the signed-in page open beside it."""
    st.html('<a href="/auth/logout" style="color:inherit">Sign out</a>')


def sign_in_link(url_path: str) -> None:
    """Draw the way to sign in, in this tab, and back to the page with its parameters."""
    query = urlencode(st.query_params.to_dict(), doseq=True)
    address = f"/auth/login?{urlencode({'next': f'/{url_path}?{query}'.rstrip('?')})}"
    st.html(f'<a href="{escape(address)}" class="rr-sign-in">Sign in</a>')


def back_link(label: str, *, page: str, key: str, query: dict[str, str] | None = None) -> None:
    """Draw the link back to a list, or to the item that `query` names."""
    if st.button(label, type="tertiary", icon=":material/arrow_back:", key=key):
        st.switch_page(page, query_params=query or {})
