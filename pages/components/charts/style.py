"""Shared style of the figures: palette, margins, legend. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

COLORS = ("#C4592B", "#4A92B8", "#7BA14E", "#A27CC2", "#C9A236", "#4FA08F", "#CC6F90", "#6E86C8", "#B58A6A")
"""Categorical palette, readable on the light and on the dark page."""
ACCENT, BLUE = COLORS[:2]
NEUTRAL, WHITE = "#77726A", "#FFFFFF"
"""Boxes of no kind of their own, and text on boxes."""
TOOLTIP, TOOLTIP_TEXT = "#33302C", "#FFFFFF"
MUTED = "#8E8A82"
"""Secondary colour: reference lines, other series."""

MARGIN = {"l": 0, "r": 10, "t": 8, "b": 0}
LEGEND_BELOW = {"orientation": "h", "y": -0.24, "x": 0}

MAX_NAME = 38


def error_bars(
    points: Iterable[tuple[float, float | None, float | None]], *, scale: float = 1.0, thickness: float, width: int
) -> dict[str, Any]:
    """Return the error bars of (value, low, high); a bound that is not known ends at the value."""
    known = [(value, value if low is None else low, value if high is None else high) for value, low, high in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (high - value) for value, _, high in known],
        "arrayminus": [scale * (value - low) for value, low, _ in known],
        "thickness": thickness,
        "width": width,
    }


def fade(color: str, opacity: float) -> str:
    """Return a hex colour with an opacity, so that the page shows through: `rgba(196,89,43,0.2)`."""
    red, green, blue = _channels(color)
    return f"rgba({red},{green},{blue},{opacity:.3g})"


def mix_colours(first: str, second: str, share: float) -> str:
    """Return a colour between two hex colours: 0 is the first, 1 the second."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_channels(first), _channels(second), strict=True))
    return f"rgb({red},{green},{blue})"


def _channels(color: str) -> tuple[int, ...]:
    return tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))


def short_name(name: str) -> str:
    """Cut a long name in the middle: its end distinguishes steps."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2 - 1]}…{name[-(MAX_NAME // 2) :]}"
