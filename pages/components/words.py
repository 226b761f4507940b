"""Numbers and moments as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from backend.domain.wording import say_bytes

size = say_bytes


def ago(moment: datetime, *, now: datetime | None = None) -> str:
    """Say how long a moment is past: `5 min ago`."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (86_400 * 60, 86_400, "days")):
        if seconds < limit:
            count = max(0, int(seconds / divisor))
            return "just now" if unit == "s" and count < 5 else f"{count} {'day' if unit == 'days' and count == 1 else unit} ago"
    return f"{moment:%-d %b %Y}"


def figure_text(text: str) -> str:
    """Escape a label of a figure: Plotly reads a few HTML tags, links among them, and a name must stay a name."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
