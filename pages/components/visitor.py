"""Context of this process, and the visitor."""

from __future__ import annotations

import streamlit as st

from backend.bootstrap import get_context
from backend.services.context import LOCAL, Context, Person
from backend.services.people.sessions import COOKIE, person_from_cookie, why_ended


def context() -> Context:
    """Return this process's context (adapters and policy), built once."""
    return get_context()


def current_person() -> Person | None:
    """Return the visitor: the owner of the cookie, `LOCAL` where no sign-in is needed, or None."""
    ctx = context()
    if not ctx.sign_in:
        return LOCAL
    return person_from_cookie(ctx, st.context.cookies.get(COOKIE))


def session_end() -> str:
    """Return why the visitor's session ended, empty where there was none."""
    return why_ended(context(), st.context.cookies.get(COOKIE))


def require_person() -> Person:
    """Return the visitor. The shell checked them already; a page that runs without the shell stops here."""
    person = current_person()
    if person is None:
        st.error("Sign in to see this page.")
        st.stop()
    return person


def link_rater() -> str | None:
    """Return the secret of the visitor's ballot link, kept for the session."""
    link = st.query_params.get("link")
    if link:
        st.session_state["ballot_link"] = link
    return st.session_state.get("ballot_link")
