"""Live curves: a small component over plotly.js that asks the server for new points itself, so that watching costs no script run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from backend.services.assets import plotly_url
from backend.services.context import Context, Person
from backend.services.live_runs import token_for_runs
from backend.services.run_views import RunView

_HERE = Path(__file__).parent
_chart = st.components.v2.component(
    "roundhouse_live_chart",
    html='<div class="rh-live"></div>',
    css=(_HERE / "live_chart.css").read_text(),
    js=(_HERE / "live_chart.js").read_text(),
    isolate_styles=False,
)


def live_chart(ctx: Context, runs: Sequence[RunView], *, person: Person, key: str) -> None:
    """Draw the curves of runs, overlaid, with status and progress above. The page is run again when a run's status changes."""
    _chart(
        key=key,
        data={
            "url": "/live/points",
            "token": token_for_runs(ctx, [run.id for run in runs], person=person),
            "plotly": plotly_url(),
            "runs": [
                {
                    "id": run.id,
                    "name": run.name,
                    "objective": run.objective,
                    "status": run.status.value,
                    "line": run.line,
                    "share": run.share,
                    "max_steps": run.max_steps,
                    "tokens_per_step": run.tokens_per_step,
                }
                for run in runs
            ],
        },
        on_changed_change=lambda: None,
    )
