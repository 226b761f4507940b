"""Script of every visit: check who the visitor is, then run one of the pages. Nothing is drawn before the check.

Streamlit runs the scripts of a folder `pages` beside its main script by their addresses. None lies beside this file, so
no page runs without this check.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.components import routes
from pages.components.browser.health.component import health_line
from pages.components.browser.palette.component import palette
from pages.components.frame import errors_shown, plain, title_tab
from pages.components.links import sign_in_link, sign_out_link
from pages.components.visitor import context, current_person, link_rater, session_end

ICON = str(Path(__file__).parent / "images" / "icon.png")

LOGO = str(Path(__file__).parent / "images" / "logo.png")

st.set_page_config(page_icon=ICON, layout="wide", initial_sidebar_state="auto")


def streamlit_page(listed: routes.Listed, *, is_hidden: bool) -> st.navigation:  # type: ignore[valid-type]
    """Return a page as Streamlit takes it."""
    is_default = listed.script == routes.OVERVIEW
    return st.Page(
        listed.script,
        title=listed.title,
        icon=f":material/{listed.icon}:",
        url_path=None if is_default else routes.address(listed.script).lstrip("/"),
        default=is_default,
        visibility="hidden" if is_hidden else "visible",
    )


def page_table() -> dict[str, list[st.navigation]]:  # type: ignore[valid-type]
    """Return every page by section, as Streamlit takes it."""
    return {
        section: [streamlit_page(listed, is_hidden=listed.is_hidden) for listed in pages]
        for section, pages in routes.PAGES.items()
    }


def run_ballot_alone() -> None:
    """Run the ballot, and say at the other pages' addresses that they are not open to raters.

    As the only page it would have the root as its address, and `/ballot` would be unknown; so a default page leads to
    it.
    """
    listed = next(page for page in routes.listed_pages() if page.script == routes.BALLOT)
    ballot = streamlit_page(listed, is_hidden=False)

    def refuse() -> None:
        st.title("Not open to raters")
        st.write("An admin can give you another role under *People and keys*.")
        st.page_link(ballot, label="Ballot", icon=f":material/{listed.icon}:")

    closed = [page for page in routes.listed_pages() if page.script not in (routes.OVERVIEW, routes.BALLOT)]
    st.navigation(
        [
            st.Page(
                lambda: st.switch_page(ballot, query_params=dict(st.query_params)),
                title="Ballot",
                url_path="start",
                default=True,
            ),
            ballot,
            *(st.Page(refuse, title=page.title, url_path=routes.address(page.script).lstrip("/")) for page in closed),
        ],
        position="hidden",
    ).run()


def forget_shared_names(url_path: str) -> None:
    """Drop what the page or object shown before left under names that others use too, unless the address holds it.

    Streamlit keeps the value of a widget bound to the address and gives it to the next widget of that name, whose page
    or object may be another.
    """
    shown = (url_path, *(st.query_params.get(parameter) for _, _, parameter in routes.OBJECTS.values()))
    if st.session_state.get("shell_shown", shown) != shown:
        for name in routes.SHARED_NAMES:
            if name in st.session_state and name not in st.query_params:
                del st.session_state[name]
    st.session_state["shell_shown"] = shown


def main() -> None:
    """Check the visitor, then run the page."""
    if link_rater() is not None or "link" in st.query_params:
        run_ballot_alone()
        return
    person = current_person()
    if person is None:
        # hidden, it takes away the list that an account saw before it was disabled
        page = st.navigation(page_table(), position="hidden")
        st.title("Roundhouse")
        st.write(" ".join(filter(None, (session_end(), "Sign in to continue."))))
        sign_in_link(page.url_path)
        return
    if person.role == "rater":
        run_ballot_alone()
        return
    st.logo(LOGO, size="large", icon_image=ICON)
    page = st.navigation(page_table(), expanded=True)
    title_tab(page.title)
    with st.sidebar:
        health_line(key="health")
        if chosen := palette(key="palette"):
            if page.url_path == "launch" and "mode" in chosen.query:
                st.session_state["mode"] = chosen.query["mode"]  # `switch_page` refuses what a widget of the page binds
            else:
                st.switch_page(chosen.script, query_params=chosen.query)
        st.link_button("Help", routes.help_address(page.url_path), icon=":material/help:", type="tertiary")
        if context().sign_in:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption(f"Signed in as {plain(person.name)}", width="content")
                sign_out_link()
    forget_shared_names(page.url_path)
    page.run()


with errors_shown():
    main()
