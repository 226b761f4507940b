"""Store the events of training jobs: metric points, samples, resumes, the end."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.tables import Run, Sample
from backend.domain.jobs.events import MetricsEvent, ResumedEvent, RowsEncodedEvent, SampleEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.training.summary import TOKENS, EncodedRows, Restart
from backend.services.context import Context
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import add_log_line
from backend.services.metrics.points import add_points, drop_points_after, pack_points, unpack_from

MAX_SAMPLE_CHARACTERS = 20_000


def record_metrics(session: Session, ctx: Context, claim: Claim[TrainPayload], events: Sequence[MetricsEvent]) -> None:
    """Store a batch of metric points and update the run's newest values, best val_loss and sparkline."""
    run = _run_of(session, claim)
    if run is None:
        return
    unpack_from(session, run, min(event.step for event in events))
    # a sum that no chart shows
    points = [
        event.model_copy(update={"values": {name: value for name, value in event.values.items() if name != TOKENS}})
        for event in events
    ]
    add_points(session, ctx.db, run.id, points)
    run.last_step = max(run.last_step, *(event.step for event in events))
    run.summary = run.summary.add((event.step, event.values) for event in events)
    pack_points(session, run)


def record_resumed(session: Session, ctx: Context, claim: Claim[TrainPayload], event: ResumedEvent) -> None:
    """Delete everything after the step the run resumes from (0: it starts over), which it writes again; of another
    attempt, note that step and log it.
    """
    run = _run_of(session, claim)
    if run is None:
        return
    forget_after(session, run, event.step)
    if claim.attempt > 1:
        restart = Restart(attempt=claim.attempt, step=event.step)
        run.summary = run.summary.model_copy(update={"restart": restart})
        add_log_line(session, ctx, claim.job_id, restart.sentence, attempt=claim.attempt)


def record_rows(session: Session, ctx: Context, claim: Claim[TrainPayload], event: RowsEncodedEvent) -> None:
    """Store the counts of the train rows with the run; its validation rows are in the log alone."""
    run = _run_of(session, claim)
    if run is not None and event.split == "train":
        left_out = event.zero_label_rows + event.refused
        rows = EncodedRows(rows=event.rows, left_out=left_out, truncated=event.truncated)
        run.summary = run.summary.model_copy(update={"encoded": rows})


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
    numbers = {
        key: value
        for key, value in result.dump().items()
        if isinstance(value, int | float | str | bool) and len(str(value)) < 200
    }
    run.summary = run.summary.model_copy(update={"result": numbers})


def forget_after(session: Session, run: Run, step: int) -> None:
    """Delete a run's points, samples and summary after a step, and make browsers reload the curves."""
    drop_points_after(session, run, step)
    session.execute(delete(Sample).where(Sample.run_id == run.id, Sample.step > step))
    run.summary, run.last_step = run.summary.drop_after(step), min(run.last_step, step)
    run.curve_resets += 1


def _run_of(session: Session, claim: Claim[TrainPayload]) -> Run | None:
    return session.scalar(select(Run).where(Run.job_id == claim.job_id))


def _clean(text: str) -> str:
    return text.replace("\x00", "")[:MAX_SAMPLE_CHARACTERS]
