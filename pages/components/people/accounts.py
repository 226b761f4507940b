"""Accounts: the list with its actions, each with a confirmation, and the form for a new account."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.gpu_hours import PersonLimits
from backend.services.context import Context, Person
from backend.services.people.accounts import (
    ROLES,
    AccountView,
    add_user,
    change_limits,
    change_own_password,
    change_role,
    disable_account,
    enable_account,
    list_accounts,
    reset_password,
)
from backend.services.people.gpu_hours import used_gpu_hours
from backend.services.people.sessions import end_sessions
from pages.components import routes
from pages.components.confirm import draw_confirmed, draw_confirmed_in_menu
from pages.components.forms import draw_fields
from pages.components.frame import empty_state, errors_shown, plain, rerun_after
from pages.components.numbers import number_form, wrong_numbers
from pages.components.words import when

LENGTH_HELP = "At least 10 characters."
ROLE_HELP = "\n".join(f"- **{role}**: {may}" for role, may in ROLES.items())


def draw_accounts(ctx: Context, person: Person) -> None:
    """Draw every account; an admin gets its actions."""
    accounts = list_accounts(ctx)
    if ctx.sign_in:
        st.caption(":material/lock: Every visitor is asked to sign in.")
    elif accounts:
        st.warning(
            "No one is asked to sign in: only this machine reaches these pages, and each of its users is an admin here."
            " The accounts count once `ROUNDHOUSE_SIGN_IN=always` is set, or the servers listen on another address.",
            icon=":material/lock_open:",
        )
    else:
        empty_state(
            "No accounts, and no one is asked to sign in: only this machine reaches these pages. Create one to listen"
            " elsewhere."
        )
    if person.is_admin:
        address = f"{routes.help_address('people')}#checklist"
        st.link_button("Open it to your team", address, icon=":material/checklist:", type="tertiary")
    hours_of = used_gpu_hours(ctx, accounts)
    for account in accounts:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            state = f" · disabled {when(account.disabled_at)}" if account.disabled_at else ""
            hours = hours_of.get(account.id)
            used = f"  \n:gray[{hours.sentence}]" if hours is not None else ""
            st.markdown(
                f"**{plain(account.name)}** · {account.role}{' · you' if account.id == person.id else ''}{state}{used}"
            )
            st.space("stretch")
            if person.is_admin:
                _draw_actions(ctx, account, person)


def draw_new_account(ctx: Context, person: Person) -> None:
    """Draw the form for a new account."""
    # a new form after each account; after a failure the same, with what was typed
    made = st.session_state.setdefault("accounts_made", 0)
    with st.form(f"new_account_{made}"):
        st.markdown("**New account**")
        name = st.text_input("Name", key=f"account_name_{made}")
        role = st.selectbox(
            "Role", ROLES, index=list(ROLES).index("engineer"), key=f"account_role_{made}", help=ROLE_HELP
        )
        password = st.text_input("Password", type="password", key=f"account_password_{made}", help=LENGTH_HELP)
        if st.form_submit_button("Add account", icon=":material/person_add:"):
            with rerun_after():
                add_user(ctx, name, password, role=role, person=person)
                st.session_state["accounts_made"] = made + 1


def draw_own_account(ctx: Context, person: Person) -> None:
    """Draw the settings of one's own account."""
    with st.form("own_password", clear_on_submit=True):
        st.markdown("**Your password**")
        old = st.text_input("Current password", type="password", key="own_old")
        new = st.text_input("New password", type="password", key="own_new", help=LENGTH_HELP)
        st.caption("Changing it signs you out everywhere, here too.")
        if st.form_submit_button("Change password", icon=":material/password:"):
            with rerun_after():
                change_own_password(ctx, old, new, person=person)
    draw_confirmed(
        "Sign out everywhere",
        "Every browser that is signed in to your account has to sign in again, this one too.",
        lambda: end_sessions(ctx, person.id or "", person=person),
        key="own_signout",
        icon="logout",
        type="secondary",
    )


def _draw_actions(ctx: Context, account: AccountView, person: Person) -> None:
    name = plain(account.name)
    if account.disabled_at:
        if st.button("Enable", key=f"enable_{account.id}", icon=":material/person_check:"):
            with rerun_after():
                enable_account(ctx, account.id, person=person)
        return
    with st.popover("Manage", icon=":material/manage_accounts:", key=f"manage_{account.id}"):
        _draw_role_and_password(ctx, account, person)
        _draw_limits(ctx, account, person)
        st.caption(f"Ends every session of {name}; the password stays.")
        if st.button("Sign out everywhere", key=f"signout_{account.id}", icon=":material/logout:"):
            with errors_shown():
                end_sessions(ctx, account.id, person=person)
                st.success(f"{name} is signed out.")
        st.divider()
        draw_confirmed_in_menu(
            "Disable account",
            f"{name} is signed out at once. Keys and ballot links that {name} made stop working until the account is"
            " enabled again; runs, votes and endpoints stay.",
            lambda: disable_account(ctx, account.id, person=person),
            key=f"disable_{account.id}",
            icon="person_off",
        )


@number_form
def _draw_limits(ctx: Context, account: AccountView, person: Person) -> None:
    default = ctx.policy.gpu_hours_per_week
    empty = {"gpu_hours_per_week": "No limit" if default is None else f"{default:g} by default"}
    values = draw_fields(PersonLimits, key=f"limits_{account.id}", values=account.limits, empty=empty, columns=1)
    if st.button("Change limits", key=f"change_limits_{account.id}", disabled=bool(wrong_numbers())):
        with rerun_after():
            change_limits(ctx, account.id, PersonLimits.model_validate(values), person=person)


def _draw_role_and_password(ctx: Context, account: AccountView, person: Person) -> None:
    with st.form(f"role_form_{account.id}", border=False):
        role = st.selectbox(
            "Role", ROLES, index=list(ROLES).index(account.role), key=f"role_{account.id}", help=ROLE_HELP
        )
        if st.form_submit_button("Change role"):
            with rerun_after():
                change_role(ctx, account.id, role, person=person)
    with st.form(f"password_form_{account.id}", border=False, clear_on_submit=True):
        password = st.text_input("New password", type="password", key=f"password_{account.id}", help=LENGTH_HELP)
        if st.form_submit_button("Reset password"):
            with errors_shown():
                reset_password(ctx, account.id, password, person=person)
                st.success(f"The new password is in force, and {plain(account.name)} is signed out everywhere.")
