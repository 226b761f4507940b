"""Live curves over plotly.js. The browser polls for new points, so watching costs no script run."""

from __future__ import annotations

from collections.abc import Sequence

from backend.services.browser_assets import plotly_url
from backend.services.context import Context, Person
from backend.services.metrics.curves import axes_of_runs
from backend.services.training.figures import figures_of_runs
from backend.services.training.live import token_for_runs
from backend.services.training.views import RunView
from pages.components.browser.modules import declare_component
from pages.components.labels import RUN_WORDS

_chart = declare_component("roundhouse_live_chart", '<div class="rh-live"></div>', "live_chart/chart.js")


def live_chart(
    ctx: Context,
    runs: Sequence[RunView],
    *,
    person: Person,
    key: str,
    marks: Sequence[int] = (),
    labels: Sequence[str] = (),
) -> None:
    """Draw the curves of runs, overlaid, with status and progress above and their samples below; `marks` are steps to
    point at, `labels` what legends call the runs, by default their names.

    The page reruns when a run's status changes. Chart settings are kept in `?chart=` without a script run.
    """
    axes = axes_of_runs(ctx, [run.id for run in runs])
    figures = figures_of_runs(ctx, [run.id for run in runs if not run.is_active])
    _chart(
        key=key,
        data={
            "url": "/live/points",
            "csv": "/live/points.csv",
            "samples": "/live/samples",
            "marks": [{"step": step} for step in marks],
            "token": token_for_runs(ctx, [run.id for run in runs], person=person),
            "plotly": plotly_url(),
            "words": RUN_WORDS,
            "runs": [
                {
                    "id": run.id,
                    "name": run.name,
                    "label": label,
                    "objective": run.objective,
                    "status": run.status.value,
                    "imported": run.is_imported,
                    "line": run.line,
                    "share": run.share,
                    "max_steps": run.max_steps,
                    "tokens_per_step": axes[run.id].tokens_per_step,
                    "flops_per_step": axes[run.id].flops_per_step,
                    "has_time": axes[run.id].has_time,
                    "figures": figures[run.id].by_metric() if run.id in figures else {},
                }
                for run, label in zip(runs, labels or [run.name for run in runs], strict=True)
            ],
        },
        on_changed_change=lambda: None,
    )
