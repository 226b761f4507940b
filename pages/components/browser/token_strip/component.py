"""Text as token chips, tinted by a number or marked by a CSS class, with visible whitespace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from backend.domain.wording import shorten
from pages.components.browser.modules import declare_component

_strip = declare_component("roundhouse_token_strip", '<div class="rt-host"></div>', "token_strip/strip.js")

MAX_CHIPS = 4000
MAX_CHARACTERS = 60
Mark = Literal["", "special", "unknown", "bytes", "muted", "trained", "one", "two"]
"""special: special token; unknown: text that is lost; bytes: part of a character, in hexadecimal; muted: not
considered; trained: carries a loss; one, two: alternating marks of neighbours.
"""


def token_strip(
    tokens: Sequence[str],
    *,
    key: str,
    values: Sequence[float | None] | None = None,
    titles: Sequence[str] | None = None,
    marks: Sequence[Mark] | None = None,
    selected: int | None = None,
    clickable: bool = True,
) -> int | None:
    """Draw tokens as chips and return the index of the clicked one (None: none yet).

    `values` tint them: 0 is no tint, 1 the full primary colour, -1 the full opposite colour; None leaves a chip bare.
    `titles` are shown under the pointer. `selected` is outlined until another one is clicked. At most `MAX_CHIPS` are
    drawn, with a note that counts the others. Texts are inserted as text nodes, so they may hold anything.
    """
    shown = range(min(len(tokens), MAX_CHIPS))
    result = _strip(
        key=key,
        data={
            "tokens": [shorten(tokens[index], MAX_CHARACTERS) for index in shown],
            "values": [finite(values[index]) for index in shown] if values is not None else None,
            "titles": [titles[index] for index in shown] if titles is not None else None,
            "marks": [marks[index] for index in shown] if marks is not None else None,
            "selected": selected,
            "clickable": clickable,
            "left_out": max(0, len(tokens) - MAX_CHIPS),
        },
        default={"picked": None},
        on_picked_change=lambda: None,
    )
    picked = result.picked
    return int(picked) if isinstance(picked, int | float) and 0 <= int(picked) < len(tokens) else None


def finite(value: float | None) -> float | None:
    """Return None for NaN and infinities, which JSON does not have."""
    return float(value) if value is not None and math.isfinite(value) else None
