"""Store the events of training jobs: metric points, samples, resumes, the end."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.tables import Run, Sample
from backend.domain.jobs.events import MetricsEvent, ResumedEvent, SampleEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.services.context import Context
from backend.services.jobs.claims import Claim
from backend.services.metrics.blocks import pack_points, unpack_from
from backend.services.metrics.points import add_points, drop_points_after

MAX_SAMPLE_CHARACTERS = 20_000
SPARK_POINTS = 64


def record_metrics(session: Session, ctx: Context, claim: Claim[TrainPayload], events: Sequence[MetricsEvent]) -> None:
    """Store a batch of metric points and update the run's newest values, best val_loss and sparkline."""
    run = _run_of(session, claim)
    if run is None:
        return
    unpack_from(session, run, min(event.step for event in events))
    add_points(session, ctx.db, run.id, events)
    run.last_step = max(run.last_step, *(event.step for event in events))
    run.summary = summarise(run.summary or {}, events)
    pack_points(session, run)


def record_resumed(session: Session, ctx: Context, claim: Claim[TrainPayload], event: ResumedEvent) -> None:
    """Delete everything after the step the run resumes from (0: it starts over), which it writes again."""
    run = _run_of(session, claim)
    if run is None:
        return
    forget_after(session, run, event.step)


def record_sample(session: Session, ctx: Context, claim: Claim[TrainPayload], event: SampleEvent) -> None:
    """Store a sample completion; a repeated step replaces the earlier one."""
    run = _run_of(session, claim)
    if run is None:
        return
    step, prompt = event.step, _clean(event.prompt)
    session.execute(delete(Sample).where(Sample.run_id == run.id, Sample.step == step, Sample.prompt == prompt))
    session.add(Sample(run_id=run.id, step=step, prompt=prompt, completion=_clean(event.completion)))


def record_run_end(session: Session, ctx: Context, claim: Claim[TrainPayload], result: TrainResult) -> None:
    """Store a finished training job's result with the run."""
    run = _run_of(session, claim)
    if run is None:
        return
    numbers = {key: value for key, value in result.dump().items() if isinstance(value, int | float | str | bool) and len(str(value)) < 200}
    run.summary = {**(run.summary or {}), "result": numbers}


def forget_after(session: Session, run: Run, step: int) -> None:
    """Delete a run's points, samples and summary after a step, and make browsers reload the curves."""
    drop_points_after(session, run, step)
    session.execute(delete(Sample).where(Sample.run_id == run.id, Sample.step > step))
    summary = dict(run.summary or {})
    summary["spark"] = [pair for pair in summary.get("spark", []) if pair[0] <= step]
    if int(summary.get("best_val_step") or 0) > step:
        summary.pop("best_val_loss", None)
        summary.pop("best_val_step", None)
    summary["not_finite"] = {name: first for name, first in summary.get("not_finite", {}).items() if first <= step}
    summary.pop("result", None)
    if step == 0:
        summary.pop("last", None)
    run.summary, run.last_step, run.curve_resets = summary, min(run.last_step, step), run.curve_resets + 1


def summarise(summary: dict[str, Any], events: Sequence[MetricsEvent]) -> dict[str, Any]:
    """Return a run's summary with a batch of points taken in.

    `last`: newest value by metric. `best_val_loss` and `best_val_step`. `spark`: at most 64 [step, train_loss], every `stride`-th
    step; when it is full every second one goes and the stride doubles, so that a sparkline never costs a query. `not_finite`: by metric
    the first step whose value was no number; such points are not stored.
    """
    last: dict[str, float] = dict(summary.get("last", {}))
    spark: list[list[float]] = [list(pair) for pair in summary.get("spark", [])]
    stride = int(summary.get("spark_stride", 1))
    best, best_step = summary.get("best_val_loss"), summary.get("best_val_step")
    not_finite: dict[str, int] = dict(summary.get("not_finite", {}))
    for event in events:
        step, values = event.step, {name: value for name, value in event.values.items() if value is not None and isfinite(value)}
        last.update(values)
        for name in event.values.keys() - values.keys():
            not_finite.setdefault(name, step)
        if "val_loss" in values and (best is None or values["val_loss"] < best):
            best, best_step = values["val_loss"], step
        if "train_loss" in values and (not spark or step >= spark[-1][0] + stride):
            spark.append([step, round(values["train_loss"], 5)])
            if len(spark) > SPARK_POINTS:
                spark, stride = spark[::2], stride * 2
    told = {"last": last, "spark": spark, "spark_stride": stride, "best_val_loss": best, "best_val_step": best_step}
    return {**summary, **told, **({"not_finite": not_finite} if not_finite else {})}


def _run_of(session: Session, claim: Claim[TrainPayload]) -> Run | None:
    return session.scalar(select(Run).where(Run.job_id == claim.job_id))


def _clean(text: str) -> str:
    return text.replace("\x00", "")[:MAX_SAMPLE_CHARACTERS]
