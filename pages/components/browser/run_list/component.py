"""List runs with live status, progress and sparkline, polled by the browser."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain.training.objectives import label_of
from backend.services.browser_assets import plotly_url
from backend.services.context import Context, Person
from backend.services.training.diagnosis import useless_runs
from backend.services.training.live import active_run_ids, token_for_runs
from backend.services.training.views import RunView
from pages.components.browser.modules import declare_component
from pages.components.labels import RUN_WORDS
from pages.components.words import when

_list = declare_component("roundhouse_live_runs", '<div class="rr-live"></div>', "run_list/list.js")


def live_runs(
    ctx: Context, runs: Sequence[RunView], *, person: Person, key: str, follow_active: bool = False
) -> str | None:
    """Draw runs as rows; return the id of the run that was opened. With `follow_active` the page reruns when other runs
    become active or end.
    """
    useless = useless_runs(ctx, [run.id for run in runs])
    result = _list(
        key=key,
        data={
            "url": "/live/overview",
            "token": token_for_runs(ctx, [run.id for run in runs], person=person),
            "prefetch": plotly_url(),
            "words": RUN_WORDS,
            "active": ",".join(active_run_ids(ctx)) if follow_active else None,
            "runs": [_row(ctx, run) | {"useless": useless.get(run.id, "")} for run in runs],
        },
        on_opened_change=lambda: None,
        on_changed_change=lambda: None,
    )
    opened: str | None = result.opened
    return opened


def _row(ctx: Context, run: RunView) -> dict[str, object]:
    subject = f"{run.base} on {run.dataset}" if run.base else run.dataset
    facts = " · ".join(
        part
        for part in (
            "Imported log" if run.is_imported else label_of(run.objective),
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
