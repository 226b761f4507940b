"""The table of runs in the browser: ticks, sorting, folds and columns are reported, states are polled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.services.context import Context, Person
from backend.services.training.live import active_run_ids, token_for_runs
from pages.components.browser.modules import declare_component
from pages.components.labels import RUN_WORDS

_table = declare_component(
    "roundhouse_run_table",
    '<div class="rr-live rt-live"></div>',
    "run_table/table.js",
    styles=("run_list/style.css", "run_table/style.css"),
)


@dataclass(frozen=True)
class TableAction:
    """An action in the table; None: not done. `opened` is a run, `picked` all ticked runs, `sorted_by` and `moved`
    name columns, `toggled` is a fold's key.
    """

    opened: str | None = None
    picked: tuple[str, ...] | None = None
    sorted_by: str | None = None
    moved: tuple[str, ...] | None = None
    toggled: str | None = None


def run_table(
    ctx: Context,
    *,
    person: Person,
    key: str,
    columns: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    order: str,
    picked: Sequence[str],
    label: str,
) -> TableAction:
    """Draw rows, which are runs or folds of them, under columns of which the first is the name. The page reruns when
    runs become active or end.
    """
    active = active_run_ids(ctx)
    shown = [row["id"] for row in rows if "id" in row]
    result = _table(
        key=key,
        data={
            "url": "/live/overview",
            "token": token_for_runs(ctx, [run_id for run_id in shown if run_id in set(active)], person=person),
            "words": RUN_WORDS,
            "active": ",".join(active),
            "columns": list(columns),
            "rows": list(rows),
            "runs": [{"id": row["id"], "status": row["status"]} for row in rows if "id" in row],
            "sort": {"name": order.removeprefix("-"), "down": order.startswith("-")},
            "picked": list(picked),
            "label": label,
        },
        on_opened_change=lambda: None,
        on_picked_change=lambda: None,
        on_sorted_change=lambda: None,
        on_moved_change=lambda: None,
        on_toggled_change=lambda: None,
        on_changed_change=lambda: None,
    )
    return TableAction(result.opened, _parts(result.picked), result.sorted, _parts(result.moved), result.toggled)


def _parts(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part for part in text.split(",") if part)
