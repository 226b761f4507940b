"""Accounts and keys: who may sign in, and what may call /v1."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context, Person
from backend.services.people.accounts import ROLES, add_user, create_key, list_keys, list_users, revoke_key
from pages.components.frame import empty_state, errors_shown, page_frame, plain


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
            state = (
                "revoked" if key.revoked_at else ("never used" if key.last_used_at is None else f"last used {key.last_used_at:%d %b %H:%M}")
            )
            st.markdown(f"**{plain(key.name)}** · ends in `{key.hint}` · {state}")
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


def draw_accounts(ctx: Context, person: Person) -> None:
    """List accounts; an admin adds more."""
    people = list_users(ctx)
    if people:
        st.dataframe([{"Name": p.name, "Role": p.role} for p in people], hide_index=True, width="stretch", key="accounts")
    else:
        empty_state("No accounts: on this machine nobody needs to sign in. Make one before you listen on another address.")
    if not person.is_admin:
        return
    with st.form("new_account", clear_on_submit=True):
        name = st.text_input("Name", key="account_name")
        role = st.selectbox("Role", ROLES, index=2, key="account_role", help="Raters see only the ballot.")
        password = st.text_input("Password", type="password", key="account_password", help="At least 10 characters.")
        if st.form_submit_button("Add account", icon=":material/person_add:"):
            with errors_shown():
                add_user(ctx, name, password, role=role)
                st.rerun()


with page_frame("People and keys", "Who may sign in, and which programs may call the endpoints.") as (context_, person_):
    keys_tab, accounts_tab = st.tabs(["Keys", "Accounts"], key="people_tabs")
    with keys_tab:
        draw_new_key(context_, person_)
        draw_keys(context_, person_)
        draw_use(context_)
    with accounts_tab:
        draw_accounts(context_, person_)
