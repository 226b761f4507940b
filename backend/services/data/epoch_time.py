"""Estimate the time of one epoch from the measured rate of a run with the same base or tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from sqlalchemy import select

from backend.db.tables import Job, MetricName, MetricPoint, Run
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.data.reports import DataReportView

POINTS = 200
RUNS = 20


@dataclass(frozen=True)
class EpochTime:
    """Seconds of one epoch at `tokens_per_s`, the rate of the run `run` (in fine-tuning, of trained tokens)."""

    seconds: float
    tokens_per_s: float
    run: str


def epoch_time(ctx: Context, view: DataReportView) -> EpochTime | None:
    """Return the time of an epoch; None without a measured run with this base or tokenizer."""
    report = view.report
    if report is None or view.source is None or not report.epoch.steps:
        return None
    kind, _, identity = view.source.partition(":")
    mine = Run.base_id == identity if kind == "checkpoint" else Run.tokenizer_id == identity
    runs = (
        select(Run)
        .join(Job, Job.id == Run.job_id)
        .where(mine, Run.objective == report.trainer, Job.status == Status.FINISHED)
    )
    with ctx.db.read() as session:
        for run in session.scalars(runs.order_by(Job.finished_at.desc()).limit(RUNS)):
            points = select(MetricPoint.value).join(MetricName, MetricName.id == MetricPoint.name_id)
            points = points.where(MetricPoint.run_id == run.id, MetricName.name == "tok_per_sec")
            rates = session.scalars(points.order_by(MetricPoint.step.desc()).limit(POINTS)).all()
            if rates and (rate := median(rates)) > 0:
                # the rate of fine-tuning counts trained tokens; that of other objectives, all tokens
                tokens = report.train.loss_tokens if report.trainer == "sft" else report.epoch.tokens
                return EpochTime(tokens / rate, rate, run.name)
    return None
