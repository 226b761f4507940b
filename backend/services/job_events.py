"""From what a child reports to rows: which service records which event, and which ends which kind of job.

Every recorder runs inside the transaction that renewed the lease, so a write from an older attempt never lands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from backend.db.tables import LogLine
from backend.domain.jobs.states import JobKind
from backend.services.battles import campaigns, preference_sets
from backend.services.checkpoints import bases, inspections
from backend.services.checkpoints import files as checkpoint_files
from backend.services.context import Context
from backend.services.data import imports
from backend.services.data import reports as data_reports
from backend.services.estimates import measurements
from backend.services.evaluation import evaluations
from backend.services.jobs.jobs import Claim, renew
from backend.services.serving import replicas
from backend.services.tokenizers import reports as tokenizer_reports
from backend.services.tokenizers import tokenizers
from backend.services.training import events as run_events
from backend.services.training import parts as run_parts

Event = dict[str, Any]


def prepare(ctx: Context, claim: Claim) -> Claim:
    """Return the claim with its payload completed by the room's service, just before its child starts. Raises Fenced."""
    fill = PREPARE.get(claim.kind)
    if fill is None:
        return claim
    with ctx.db.write() as session:
        renew(session, ctx, claim)
        return replace(claim, payload=fill(session, ctx, claim))


def record_events(session: Session, ctx: Context, claim: Claim, events: list[Event]) -> dict[str, Any]:
    """Write a batch of events. Returns the newest progress, or an empty dict.

    `metrics` events go to the room's recorder as one batch: {"rows": [...]}.
    """
    progress: dict[str, Any] = {}
    metrics: list[Event] = []

    def flush_metrics() -> None:
        recorder = EVENTS.get((claim.kind, "metrics"))
        if metrics and recorder is not None:
            recorder(session, ctx, claim, {"rows": list(metrics)})
        metrics.clear()

    for event in events:
        kind = event.get("type")
        if kind == "progress":
            progress = {key: event.get(key) for key in ("done", "total", "unit", "rate", "message", "time")}
        elif kind == "log":
            text = str(event.get("text", ""))[:2000].replace("\x00", "")
            session.add(LogLine(job_id=claim.job_id, attempt=claim.attempt, time=event.get("time", 0.0), text=text))
        elif kind == "metrics":
            metrics.append(event)
        else:
            flush_metrics()  # order matters: `resumed` drops points that came before it
            recorder = EVENTS.get((claim.kind, str(kind)))
            if recorder is not None:
                recorder(session, ctx, claim, event)
    flush_metrics()
    return progress


def record_finish(session: Session, ctx: Context, claim: Claim, result: dict[str, Any]) -> None:
    """Let the room's service record the result of a finished job."""
    ending = FINISHED.get(claim.kind)
    if ending is not None:
        ending(session, ctx, claim, result)


def record_bad_end(session: Session, ctx: Context, claim: Claim, error: dict[str, Any]) -> None:
    """Let the room's service tidy up after a failed, cancelled or crashed attempt."""
    ending = ENDED_BADLY.get(claim.kind)
    if ending is not None:
        ending(session, ctx, claim, error)


Recorder = Callable[[Session, Context, Claim, dict[str, Any]], None]


def in_turn(*recorders: Recorder) -> Recorder:
    """Return a recorder that calls several, in order."""

    def record(session: Session, ctx: Context, claim: Claim, event: dict[str, Any]) -> None:
        for recorder in recorders:
            recorder(session, ctx, claim, event)

    return record


EVENTS: dict[tuple[JobKind, str], Recorder] = {
    (JobKind.EVALUATE, "item"): evaluations.record_item,
    (JobKind.GENERATE, "completion"): campaigns.record_completion,
    (JobKind.REPLICA, "ready"): replicas.record_ready,
    (JobKind.REPLICA, "gauge"): replicas.record_gauge,
    (JobKind.TRAIN, "metrics"): run_events.record_metrics,
    (JobKind.TRAIN, "resumed"): run_events.record_resumed,
    (JobKind.TRAIN, "sample"): run_events.record_sample,
    (JobKind.TRAIN, "checkpoint"): checkpoint_files.record_checkpoint,
    (JobKind.TRAIN, "checkpoint_removed"): checkpoint_files.record_checkpoint_removed,
}


FINISHED: dict[JobKind, Recorder] = {
    JobKind.IMPORT_DATASET: imports.record_import,
    JobKind.TRAIN_TOKENIZER: tokenizers.record_tokenizer,
    JobKind.TOKENIZER_REPORT: tokenizer_reports.record_report,
    JobKind.ADD_BASE: bases.record_base,
    JobKind.TRAIN: in_turn(run_events.record_run_end, measurements.record_run, preference_sets.enter_rematch),
    JobKind.EVALUATE: evaluations.record_scores,
    JobKind.GENERATE: campaigns.record_generated,
    JobKind.REPLICA: replicas.record_end,
    JobKind.INSPECT: inspections.record_inspection,
    JobKind.DATA_REPORT: data_reports.record_data_report,
    JobKind.PROBE: measurements.record_probe,
}


ENDED_BADLY: dict[JobKind, Recorder] = {
    JobKind.REPLICA: replicas.record_end,
}


PREPARE: dict[JobKind, Callable[[Session, Context, Claim], dict[str, Any]]] = {
    JobKind.TRAIN: run_parts.fill_payload,
    JobKind.PROBE: run_parts.fill_payload,
}
"""Fills in, when a job starts, what was still being made when it was asked for. Returns the payload."""
