"""Rows of a dataset as bubbles: messages by who says them, answers beside each other, everything else as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from backend.domain.data.rows.display import RowLayout, RowTurn, displayable
from backend.domain.wording import plural
from pages.components import routes
from pages.components.browser.modules import declare_component

_rows = declare_component("roundhouse_data_rows", '<div class="dr-host"></div>', "data_rows/rows.js")
MAX_CHARACTERS, MAX_TURNS = 600, 6
"""Limits of a row in a list; a row by itself is shown whole, up to the limits below."""
WHOLE_CHARACTERS, WHOLE_TURNS = 400_000, 2000
MAX_CALLS = 64
SIDES = {"chosen": "Chosen", "rejected": "Rejected", "good": "Good", "bad": "Bad"}
_SPEAKERS = ("user", "assistant", "system", "tool")


@dataclass(frozen=True)
class ShownRow:
    """A row with its title, facts beside it, and the parts of the address that leads to it; None: it leads nowhere.
    `name` is what the component says when the row is opened.
    """

    name: str
    title: str
    layout: RowLayout
    facts: str = ""
    query: Mapping[str, str] | None = None


@dataclass(frozen=True)
class RowAction:
    """An action in the rows: a row opened by link, or a step by key (`next`, `previous`, `close`). None: not done."""

    opened: str | None = None
    moved: str | None = None


def data_rows(
    rows: Sequence[ShownRow],
    *,
    key: str,
    label: str,
    searched: str = "",
    is_whole: bool = False,
    keys: bool = False,
    opens_here: bool = True,
) -> RowAction:
    """Draw rows; `searched` is marked in them. Long texts are cut unless `is_whole`. With `keys`, the arrow keys, J, K
    and Escape are taken from anywhere on the page that has no keys of its own. Links open in a tab of their own unless
    `opens_here`, which leaves it to the caller.
    """
    result = _rows(
        key=key,
        data={
            "label": label,
            "keys": keys,
            "here": opens_here,
            "searched": searched,
            "rows": [_row(row, is_whole=is_whole) for row in rows],
        },
        on_opened_change=lambda: None,
        on_moved_change=lambda: None,
    )
    return RowAction(result.opened, result.moved)


def _row(row: ShownRow, *, is_whole: bool) -> dict[str, object]:
    return {
        "name": row.name,
        "title": row.title,
        "facts": row.facts,
        "href": f"{routes.address(routes.DATASETS)}?{urlencode(row.query)}" if row.query is not None else None,
        "tools": [displayable(name)[:200] for name in row.layout.tools],
        "turns": _turns(row.layout.turns, is_whole=is_whole),
        "sides": [
            {"name": name, "title": SIDES[name], "turns": _turns(turns, is_whole=is_whole)}
            for name, turns in row.layout.sides
        ],
    }


def _turns(turns: Sequence[RowTurn], *, is_whole: bool) -> list[dict[str, object]]:
    most, left = (WHOLE_TURNS, WHOLE_CHARACTERS) if is_whole else (MAX_TURNS, None)
    drawn = []
    for turn in turns[:most]:
        limit = MAX_CHARACTERS if left is None else left
        drawn.append(_turn(turn, limit=limit))
        left = None if left is None else max(0, left - len(turn.text))
    if len(turns) > most:
        more = plural(len(turns) - most, "more part")
        drawn.append({"kind": "field", "role": "", "text": f"… and {more}", "calls": [], "right": False, "more": ""})
    return drawn


def _turn(turn: RowTurn, *, limit: int) -> dict[str, object]:
    is_choice = len(turn.role) == 1 and turn.role.isupper()
    kind = turn.role if turn.role in _SPEAKERS else "choice" if is_choice else "field" if turn.role else "text"
    return {
        "kind": kind,
        "role": displayable(turn.role)[:200],
        "text": displayable(turn.text[:limit]),
        "calls": [displayable(call[:limit]) for call in turn.calls[:MAX_CALLS]],
        "right": turn.is_right,
        "more": f"… {plural(len(turn.text) - limit, 'more character')}" if len(turn.text) > limit else "",
    }
