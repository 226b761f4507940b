"""The cached door to the services, and who stands before it."""

from __future__ import annotations

import streamlit as st

from backend.bootstrap import get_context
from backend.services.context import LOCAL, Context, Person
from backend.services.people.sessions import COOKIE, person_from_cookie


def context() -> Context:
    """Return this process's context (adapters and policy), built once."""
    return get_context()


def current_person() -> Person | None:
    """Return who looks at the page: the cookie's owner, `LOCAL` where no sign-in is needed, or None."""
    ctx = context()
    if not ctx.sign_in:
        return LOCAL
    return person_from_cookie(ctx, st.context.cookies.get(COOKIE))


def require_person() -> Person:
    """Return who looks at the page. The shell has let them in already; a page that is run without it stops here."""
    person = current_person()
    if person is None:
        st.error("Sign in to see this page.")
        st.stop()
    return person


def link_rater() -> str | None:
    """Return the secret of a ballot link that brought the visitor here, kept for the visit."""
    link = st.query_params.get("link")
    if link:
        st.session_state["ballot_link"] = link
    return st.session_state.get("ballot_link")
