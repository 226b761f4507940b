"""Script of every visit: check who the visitor is, then run one of the pages. Nothing is drawn before the check.

No `pages/` folder lies beside this file, so the server can't run a page without running this script first.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.components import routes
from pages.components.browser.health.component import health_line
from pages.components.frame import errors_shown
from pages.components.visitor import context, current_person, link_rater

ICON = str(Path(__file__).parent / "images" / "icon.png")

LOGO = str(Path(__file__).parent / "images" / "logo.png")

st.set_page_config(page_title="Roundhouse", page_icon=ICON, layout="wide", initial_sidebar_state="auto")


def _page(script: str, title: str, icon: str, *, hidden: bool = False) -> st.navigation:  # type: ignore[valid-type]
    is_default = script == routes.OVERVIEW
    return st.Page(
        script,
        title=title,
        icon=f":material/{icon}:",
        url_path=None if is_default else routes.address(script).lstrip("/"),
        default=is_default,
        visibility="hidden" if hidden else "visible",
    )


BALLOT = (routes.BALLOT, "Ballot", "how_to_vote")


def page_table() -> dict[str, list[st.navigation]]:  # type: ignore[valid-type]
    """Return every page by section."""
    return {
        "": [_page(routes.OVERVIEW, "Overview", "home")],
        "Build": [
            _page(routes.DATASETS, "Datasets", "database"),
            _page(routes.ARCHITECTURES, "Architectures", "schema"),
            _page(routes.TOKENIZERS, "Tokenizers", "match_word"),
            _page(routes.PLANNER, "Planner", "calculate"),
            _page(routes.LAUNCH, "Launch", "rocket_launch"),
            _page(routes.RUNS, "Runs", "show_chart"),
            _page(routes.RUN, "Run", "monitoring", hidden=True),
            _page(routes.SWEEP, "Sweep", "tune", hidden=True),
            _page(routes.CHECKPOINTS, "Checkpoints", "deployed_code"),
            _page(routes.INSPECT, "Inspect", "troubleshoot"),
        ],
        "Evaluate": [
            _page(routes.EVALUATIONS, "Evaluations", "grading"),
            _page(routes.BATTLES, "Battles", "swords"),
            _page(*BALLOT, hidden=True),
        ],
        "Serve": [
            _page(routes.ENDPOINTS, "Endpoints", "dns"),
            _page(routes.PLAYGROUND, "Playground", "chat"),
            _page(routes.MONITOR, "Monitor", "monitoring"),
            _page(routes.REQUESTS, "Requests", "receipt_long"),
            _page(routes.LOAD_TESTS, "Load tests", "speed"),
            _page(routes.LINEAGE, "Lineage", "account_tree"),
        ],
        "Operate": [
            _page(routes.WORKERS, "Workers", "memory"),
            _page(routes.COSTS, "Costs", "payments"),
            _page(routes.PEOPLE, "People and keys", "key"),
        ],
    }


def run_ballot_alone() -> None:
    """Run the ballot from any address, without the other pages.

    As the only page it would have the root as its address, and `/ballot` would be unknown; so a default page leads to
    it.
    """
    ballot = _page(*BALLOT)
    st.navigation(
        [
            st.Page(
                lambda: st.switch_page(ballot, query_params=dict(st.query_params)),
                title="Ballot",
                url_path="start",
                default=True,
            ),
            ballot,
        ],
        position="hidden",
    ).run()


def main() -> None:
    """Check the visitor, then run the page."""
    if link_rater() is not None or "link" in st.query_params:
        run_ballot_alone()
        return
    person = current_person()
    if person is None:
        st.navigation(page_table(), position="hidden")  # takes away the list that an account saw before it was disabled
        st.title("Roundhouse")
        st.write("Sign in to continue.")
        st.link_button("Sign in", "/auth/login", type="primary")
        return
    if person.role == "rater":
        run_ballot_alone()
        return
    st.logo(LOGO, size="large", icon_image=ICON)
    page = st.navigation(page_table(), expanded=True)
    with st.sidebar:
        health_line(key="health")
        st.link_button("Help", routes.help_address(page.url_path), icon=":material/help:", type="tertiary")
        if context().sign_in:
            st.caption(f"Signed in as {person.name}")
            st.link_button("Sign out", "/auth/logout", width="stretch")
    page.run()


with errors_shown():
    main()
