"""Accounts and keys: who may sign in, and what may call /v1."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context
from pages.components.frame import page_frame
from pages.components.people.accounts import draw_accounts, draw_new_account, draw_own_account
from pages.components.people.keys import draw_keys, draw_new_key


def draw_gateway_use(ctx: Context) -> None:
    """Show how a client calls the gateway."""
    key = "rh-..." if ctx.sign_in else "local"
    with st.expander("Use it from Python", icon=":material/code:"):
        st.code(
            "from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{ctx.gateway_url}/v1", api_key="{key}")\n'
            'answer = client.chat.completions.create(model="ENDPOINT", messages=[{"role": "user", "content":'
            ' "Hello"}])\n'
            "print(answer.choices[0].message.content)",
            language="python",
        )


with page_frame("People and keys", "Who may sign in, and which programs may call the endpoints.") as (
    context_,
    person_,
):
    keys_tab, accounts_tab = st.tabs(["Keys", "Accounts"], key="tab", bind="query-params")
    with keys_tab:
        draw_new_key(context_, person_)
        draw_keys(context_, person_)
        draw_gateway_use(context_)
    with accounts_tab:
        draw_accounts(context_, person_)
        if person_.id is not None:
            draw_own_account(context_, person_)
        if person_.is_admin:
            draw_new_account(context_, person_)
