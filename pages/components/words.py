"""Format times in the visitor's time zone, and labels of figures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from backend.domain.wording import format_bytes

size = format_bytes


def when(moment: datetime, *, now: datetime | None = None, with_seconds: bool = False) -> str:
    """Format a moment where the page stands still, so that it stays true: `14:32` today, `yesterday, 23:49`,
    `3 days ago`; after 60 days its date. `with_seconds` tells moments within a minute apart.
    """
    local, today = moment.astimezone(time_zone()), (now or datetime.now(UTC)).astimezone(time_zone()).date()
    days = (today - local.date()).days
    clock = f"{local:{'%H:%M:%S' if with_seconds else '%H:%M'}}{' UTC' if local.tzinfo is UTC else ''}"
    if days in (0, 1):
        return clock if days == 0 else f"yesterday, {clock}"
    return f"{days} days ago" if 1 < days < 60 else day(moment)


def ago(moment: datetime, *, now: datetime | None = None) -> str:
    """Format the time since a moment, where the page refreshes by itself: `5 min ago`; after 60 days its date."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (86_400 * 60, 86_400, "days")):
        if seconds < limit:
            count = max(0, int(seconds / divisor))
            return (
                "just now"
                if unit == "s" and count < 5
                else f"{count} {'day' if unit == 'days' and count == 1 else unit} ago"
            )
    return day(moment)


def date_time(moment: datetime, *, now: datetime | None = None) -> str:
    """Format a moment in the visitor's time zone, with the time since then: `26 Nov 2026, 23:49 (3 h ago)`."""
    local, now = moment.astimezone(time_zone()), now or datetime.now(UTC)
    is_recent = timedelta(0) <= now - moment < timedelta(days=60)
    zone = " UTC" if local.tzinfo is UTC else ""
    return f"{local:%-d %b %Y, %H:%M}{zone}" + (f" ({ago(moment, now=now)})" if is_recent else "")


def day(moment: datetime) -> str:
    """Format a moment's date in the visitor's time zone: `26 Nov 2026`."""
    return f"{moment.astimezone(time_zone()):%-d %b %Y}"


def time_zone() -> tzinfo:
    """Return the browser's time zone; UTC where the browser names none or one that this machine does not know."""
    try:
        return ZoneInfo(st.context.timezone) if st.context.timezone else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the name comes from the visitor
        return UTC


def two_times(first_ms: float | None, second_ms: float | None) -> str:
    """Format two latencies for a narrow place: `42 / 180 ms`, `1.2 / 2.5 s`; a dash where one is unknown."""
    if first_ms is None or second_ms is None:
        return "–"
    if max(first_ms, second_ms) >= 1000:
        return f"{first_ms / 1000:,.1f} / {second_ms / 1000:,.1f} s"
    return f"{first_ms:,.0f} / {second_ms:,.0f} ms"


def figure_text(text: str) -> str:
    """Escape a label of a figure: Plotly renders a few HTML tags, links included."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
