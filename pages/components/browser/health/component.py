"""Health line: what fails in the installation, at the foot of every page, polled by the browser, so that it shows while
scripts hang.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.components.browser.modules import join_modules

_HERE = Path(__file__).parent
_line = st.components.v2.component(
    "roundhouse_health",
    html='<div class="rr-health-host"></div>',
    css=(_HERE / "style.css").read_text(),
    js=join_modules(_HERE / "health.js"),
    isolate_styles=False,
)


def health_line(*, key: str) -> None:
    """Draw the line, which takes no room while every part answers."""
    _line(key=key, data={"url": "/healthz"})
