"""List runs with live status, progress and sparkline, polled by the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.services.browser_assets import plotly_url
from backend.services.context import Context, Person
from backend.services.training.live import active_run_ids, token_for_runs
from backend.services.training.views import RunView
from pages.components.browser.modules import join_modules
from pages.components.labels import IMPORTED, OBJECTIVES, STATUS
from pages.components.words import when

_HERE = Path(__file__).parent
_list = st.components.v2.component(
    "roundhouse_live_runs",
    html='<div class="rr-live"></div>',
    css=(_HERE / "style.css").read_text(),
    js=join_modules(_HERE / "list.js"),
    isolate_styles=False,
)


@dataclass(frozen=True)
class ListAction:
    """An action in the list: a run opened, or the runs now ticked; None: neither."""

    opened: str | None = None
    picked: tuple[str, ...] | None = None


def live_runs(
    ctx: Context,
    runs: Sequence[RunView],
    *,
    person: Person,
    key: str,
    selectable: bool = False,
    picked: Sequence[str] = (),
    follow_active: bool = False,
    compact: bool = False,
) -> ListAction:
    """Draw runs as rows; `compact` rows suit a narrow column. With `follow_active` the page reruns when other runs
    become active or end.
    """
    result = _list(
        key=key,
        data={
            "url": "/live/overview",
            "token": token_for_runs(ctx, [run.id for run in runs], person=person),
            "prefetch": plotly_url(),
            "words": {"status": STATUS, "imported": IMPORTED},
            "selectable": selectable,
            "compact": compact,
            "picked": list(picked),
            "active": ",".join(active_run_ids(ctx)) if follow_active else None,
            "runs": [_row(ctx, run) for run in runs],
        },
        on_opened_change=lambda: None,
        on_picked_change=lambda: None,
        on_changed_change=lambda: None,
    )
    chosen = result.picked
    return ListAction(
        opened=result.opened, picked=None if chosen is None else tuple(part for part in str(chosen).split(",") if part)
    )


def _row(ctx: Context, run: RunView) -> dict[str, object]:
    subject = f"{run.base} on {run.dataset}" if run.base else run.dataset
    facts = " · ".join(
        part
        for part in (
            "Imported log" if run.is_imported else OBJECTIVES.get(run.objective, run.objective),
            subject or run.source,
            when(run.created_at, now=ctx.now()),
        )
        if part
    )
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status.value,
        "imported": run.is_imported,
        "line": run.line,
        "share": run.share,
        "spark": list(run.spark),
        "last": run.last,
        "facts": facts,
        "tags": list(run.tags),
    }
