"""The ballot in the browser: battles by keyboard, votes sent behind the next battle. It covers the page."""

from __future__ import annotations

import hashlib
from pathlib import Path

import streamlit as st

from pages.components.browser.modules import declare_component

_ballot = declare_component(
    "roundhouse_ballot",
    '<div class="bt-host"></div>',
    "ballot/ballot.js",
    styles=("ballot/style.css", "ballot/text.css"),
)

API = "/ballot/api"


def ballot(*, token: str, campaign_id: str, rater_id: str, leave: str | None, key: str) -> None:
    """Draw the ballot of a rater whom `token` admits. `leave` is the address of its way out, None for raters who have
    nowhere to go.

    The browser asks for a script run, which must pass a new token, when the server refuses the old one. Votes that the
    server does not have yet are kept in the browser under a name made of campaign and rater.
    """
    name = hashlib.sha256(f"{campaign_id}:{rater_id}".encode()).hexdigest()[:16]
    _ballot(
        key=key,
        data={"url": API, "token": token, "store": f"roundhouse-ballot-{name}", "leave": leave, "maths": maths_url()},
        on_renew_change=lambda: None,
    )


def maths_url() -> str | None:
    """Return the address of the KaTeX that Streamlit serves, None without: TeX is then shown as written."""
    folder = Path(st.__file__).parent / "static"
    file = next(iter(sorted(folder.glob("static/js/katex.*.js"))), None)
    return f"/{file.relative_to(folder)}" if file else None
