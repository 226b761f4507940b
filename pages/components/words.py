"""Numbers and moments as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from backend.domain.predictions import say_bytes

size = say_bytes


def short(number: float) -> str:
    """Write a large number in three figures, up to ten thousand in full: `2,048`, `1.12 M`."""
    value = float(number)
    if abs(value) < 9_999.5:
        return f"{value:,.0f}"
    for unit in ("", " K", " M", " B"):
        if abs(value) < 999.5:
            return f"{value:.0f}" if not unit else f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"


MADE_BY = {
    "pretrain": "pre-trained", "sft": "fine-tuned", "dpo": "DPO-trained", "kto": "KTO-trained", "orpo": "ORPO-trained",
    "simpo": "SimPO-trained", "reward": "reward model", "grpo": "GRPO-trained",
}  # fmt: skip
"""What an objective makes of a checkpoint."""


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


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: `1 row`, `2 rows`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
