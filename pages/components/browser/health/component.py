"""Health line: what fails in the installation, at the foot of every page, polled by the browser, so that it shows while
scripts hang.
"""

from __future__ import annotations

from pages.components.browser.modules import declare_component

_line = declare_component("roundhouse_health", '<div class="rr-health-host"></div>', "health/health.js")


def health_line(*, key: str) -> None:
    """Draw the line, which takes no room while every part answers."""
    _line(key=key, data={"url": "/healthz"})
