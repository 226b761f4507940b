"""Accounts and keys: who may sign in, and what may call /v1."""

from __future__ import annotations

import streamlit as st

from backend.domain.serving.call_code import first_body, python_code
from backend.services.context import Context
from backend.services.serving.endpoints import list_endpoints
from pages.components.frame import page_frame
from pages.components.links import draw_who_reaches
from pages.components.people.accounts import draw_accounts, draw_new_account, draw_own_account
from pages.components.people.keys import FRESH, draw_keys, draw_new_key, key_to_show


def draw_gateway_use(ctx: Context) -> None:
    """Show how a client calls the gateway, with the new key while it is shown."""
    name = next((endpoint.name for endpoint in list_endpoints(ctx) if endpoint.stopped_at is None), "ENDPOINT")
    with st.expander("Use it from Python", icon=":material/code:", expanded=FRESH in st.session_state):
        st.code(python_code(ctx.gateway_url, first_body(name), key=key_to_show(ctx)), language="python")
        draw_who_reaches(ctx, ctx.gateway_url)


with page_frame("People and keys", "Who may sign in, and which programs may call the endpoints.") as (
    context_,
    person_,
):
    keys_tab, accounts_tab = st.tabs(["Keys", "Accounts"], key="tab", bind="query-params")
    with keys_tab:
        draw_new_key(context_, person_)
        draw_gateway_use(context_)
        draw_keys(context_, person_)
    with accounts_tab:
        draw_accounts(context_, person_)
        if person_.id is not None:
            draw_own_account(context_, person_)
        if person_.is_admin:
            draw_new_account(context_, person_)
