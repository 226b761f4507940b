"""The script that the server runs for every visitor: who is it, which pages are there. Nothing is drawn before the gate.

No `pages/` folder lies beside this file, so the server can't run a page without running this first.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.components import routes
from pages.components.visitor import context, current_person, link_rater

ICON = str(Path(__file__).parent / "images" / "icon.png")

LOGO = str(Path(__file__).parent / "images" / "logo.png")

st.set_page_config(page_title="Roundhouse", page_icon=ICON, layout="wide", initial_sidebar_state="auto")


def _page(path: str, title: str, icon: str, url: str, *, default: bool = False, hidden: bool = False) -> st.navigation:  # type: ignore[valid-type]
    return st.Page(
        path,
        title=title,
        icon=f":material/{icon}:",
        url_path=None if default else url,
        default=default,
        visibility="hidden" if hidden else "visible",
    )


BALLOT = (routes.BALLOT, "Ballot", "how_to_vote", "ballot")


def page_table() -> dict[str, list[st.navigation]]:  # type: ignore[valid-type]
    """Return every page by section. The last argument is the address."""
    return {
        "": [_page(routes.OVERVIEW, "Overview", "home", "", default=True)],
        "Build": [
            _page(routes.DATASETS, "Datasets", "database", "datasets"),
            _page(routes.ARCHITECTURES, "Architectures", "schema", "architectures"),
            _page(routes.TOKENIZERS, "Tokenizers", "match_word", "tokenizers"),
            _page(routes.PLANNER, "Planner", "calculate", "planner"),
            _page(routes.LAUNCH, "Launch", "rocket_launch", "launch"),
            _page(routes.RUNS, "Runs", "show_chart", "runs"),
            _page(routes.RUN, "Run", "monitoring", "run", hidden=True),
            _page(routes.SWEEP, "Sweep", "tune", "sweep", hidden=True),
            _page(routes.CHECKPOINTS, "Checkpoints", "deployed_code", "checkpoints"),
            _page(routes.INSPECT, "Inspect", "troubleshoot", "inspect"),
        ],
        "Evaluate": [
            _page(routes.EVALUATIONS, "Evaluations", "grading", "evaluations"),
            _page(routes.BATTLES, "Battles", "swords", "battles"),
            _page(*BALLOT, hidden=True),
        ],
        "Serve": [
            _page(routes.ENDPOINTS, "Endpoints", "dns", "endpoints"),
            _page(routes.PLAYGROUND, "Playground", "chat", "playground"),
        ],
        "Operate": [
            _page(routes.WORKERS, "Workers", "memory", "workers"),
            _page(routes.PEOPLE, "People and keys", "key", "people"),
        ],
    }


def run_ballot_alone() -> None:
    """Run the ballot and nothing else, from whatever address. A lone page would own the root alone, and its own address would be unknown."""
    ballot = _page(*BALLOT)
    st.navigation(
        [
            st.Page(lambda: st.switch_page(ballot, query_params=dict(st.query_params)), title="Ballot", url_path="start", default=True),
            ballot,
        ],
        position="hidden",
    ).run()


def main() -> None:
    """Pass the gate, then run the page."""
    if link_rater() is not None or "link" in st.query_params:
        run_ballot_alone()
        return
    person = current_person()
    if person is None:
        st.title("Roundhouse")
        st.write("Sign in to go on.")
        st.link_button("Sign in", "/auth/login", type="primary")
        return
    if person.role == "rater":
        run_ballot_alone()
        return
    st.logo(LOGO, size="large", icon_image=ICON)
    page = st.navigation(page_table(), expanded=True)
    with st.sidebar:
        if not context().queue.is_alive():
            st.warning("The broker does not answer. Work stays queued and starts when it is back.", icon=":material/cloud_off:")
        if context().sign_in:
            st.caption(f"Signed in as {person.name}")
            st.link_button("Sign out", "/auth/logout", width="stretch")
    page.run()


main()
