"""Accounts and keys: who may sign in, and what may call /v1."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context, Person
from backend.services.people.keys import create_key, list_keys, revoke_key
from pages.components.frame import empty_state, errors_shown, page_frame, plain
from pages.components.people.accounts import draw_accounts, draw_new_account, draw_own_account
from pages.components.words import ago


def draw_new_key(ctx: Context, person: Person) -> None:
    """Draw the form that makes a key, and the key once."""
    with st.form("new_key", clear_on_submit=True, border=False):
        left, right = st.columns([4, 1], vertical_alignment="bottom")
        name = left.text_input("What will use the key", placeholder="Support bot", key="key_name")
        if right.form_submit_button("Create key", type="primary", width="stretch"):
            with errors_shown():
                st.session_state["fresh_key"] = create_key(ctx, name, person=person)
    if "fresh_key" in st.session_state:
        st.success("Copy it now: it is not shown again.", icon=":material/key:")
        st.code(st.session_state.pop("fresh_key"), language=None)


def draw_keys(ctx: Context, person: Person) -> None:
    """List the keys, each with its revoke button."""
    keys = list_keys(ctx, person=person)
    if not keys:
        empty_state("No keys yet. On this machine the gateway answers without one; from elsewhere every request needs one.")
    for key in keys:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            used = "never used" if key.last_used_at is None else f"last used {ago(key.last_used_at)}"
            owner = f" · made by {plain(key.owner)}" if key.owner and person.is_admin else ""
            st.markdown(f"**{plain(key.name)}** · ends in `{key.hint}`{owner} · {'revoked' if key.revoked_at else used}")
            st.space("stretch")
            if not key.revoked_at and st.button("Revoke", key=f"revoke_{key.id}", icon=":material/block:"):
                with errors_shown():
                    revoke_key(ctx, key.id, person=person)
                    st.rerun()


def draw_use(ctx: Context) -> None:
    """Show how a client calls the gateway."""
    key = "rh-..." if ctx.sign_in else "local"
    with st.expander("Use it from Python", icon=":material/code:"):
        st.code(
            "from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{ctx.gateway_url}/v1", api_key="{key}")\n'
            'answer = client.chat.completions.create(model="ENDPOINT", messages=[{"role": "user", "content": "Hello"}])\n'
            "print(answer.choices[0].message.content)",
            language="python",
        )


with page_frame("People and keys", "Who may sign in, and which programs may call the endpoints.") as (context_, person_):
    keys_tab, accounts_tab = st.tabs(["Keys", "Accounts"], key="people_tabs")
    with keys_tab:
        draw_new_key(context_, person_)
        draw_keys(context_, person_)
        draw_use(context_)
    with accounts_tab:
        draw_accounts(context_, person_)
        if person_.id is not None:
            draw_own_account(context_, person_)
        if person_.is_admin:
            draw_new_account(context_, person_)
