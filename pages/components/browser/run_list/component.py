"""A list of runs that keeps itself up to date: status, progress and a sparkline a row, polled by the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.services.browser_assets import plotly_url
from backend.services.context import Context, Person
from backend.services.training.live import active_run_ids, token_for_runs
from backend.services.training.views import RunView
from pages.components.labels import OBJECTIVES
from pages.components.words import ago

_HERE = Path(__file__).parent
_list = st.components.v2.component(
    "roundhouse_live_runs",
    html='<div class="rr-live"></div>',
    css=(_HERE / "style.css").read_text(),
    js=(_HERE / "list.js").read_text(),
    isolate_styles=False,
)


@dataclass(frozen=True)
class ListAction:
    """What somebody did in the list: opened a run, or changed which are ticked (None: nothing)."""

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
) -> ListAction:
    """Draw runs as rows. With `follow_active` the page is run again when other runs become active or end."""
    result = _list(
        key=key,
        data={
            "url": "/live/overview",
            "token": token_for_runs(ctx, [run.id for run in runs], person=person),
            "prefetch": plotly_url(),
            "selectable": selectable,
            "picked": list(picked),
            "active": ",".join(active_run_ids(ctx)) if follow_active else None,
            "runs": [_row(ctx, run) for run in runs],
        },
        on_opened_change=lambda: None,
        on_picked_change=lambda: None,
        on_changed_change=lambda: None,
    )
    chosen = result.picked
    return ListAction(opened=result.opened, picked=None if chosen is None else tuple(part for part in str(chosen).split(",") if part))


def _row(ctx: Context, run: RunView) -> dict[str, object]:
    subject = f"{run.base} on {run.dataset}" if run.base else run.dataset
    facts = " · ".join(
        part
        for part in (
            "Imported log" if run.is_imported else OBJECTIVES.get(run.objective, run.objective),
            subject or run.source,
            ago(run.created_at, now=ctx.now()),
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
