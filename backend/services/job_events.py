"""Maps a child's events to services: which one records an event, and which one a job's end.

Every recorder runs inside the transaction that renewed the lease, so an older attempt can't write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, cast

from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.db.tables import Job, LogLine
from backend.domain.jobs.events import (
    CheckpointEvent,
    CheckpointRemovedEvent,
    CompletionEvent,
    Event,
    GaugeEvent,
    ItemEvent,
    LogEvent,
    MetricsEvent,
    ProgressEvent,
    ReadyEvent,
    ResumedEvent,
    RowsEncodedEvent,
    SampleEvent,
)
from backend.domain.jobs.load_test import LoadTestPayload
from backend.domain.jobs.payloads import ImportPayload, ReplicaPayload, TrainPayload, read_payload
from backend.domain.jobs.records import JobResult, Payload
from backend.domain.jobs.states import JobKind
from backend.services.battles import generation, rematches
from backend.services.checkpoints import bases, inspections
from backend.services.checkpoints import files as checkpoint_files
from backend.services.context import Context
from backend.services.data import imports
from backend.services.data import reports as data_reports
from backend.services.estimates import measurements
from backend.services.evaluation import items, open_suites
from backend.services.evaluation.judges import records
from backend.services.evaluation.safety import runs as safety_runs
from backend.services.evaluation.safety import toxicity
from backend.services.jobs.claims import Claim, StoredPayload, renew
from backend.services.serving import load_tests, own_keys, replicas
from backend.services.tokenizers import reports as tokenizer_reports
from backend.services.tokenizers import tokenizers
from backend.services.training import events as run_events
from backend.services.training import parts as run_parts

MAX_LINE_CHARACTERS = 2000


def prepare_claim(ctx: Context, claim: Claim[StoredPayload]) -> Claim[Payload]:
    """Return the claim with its payload read, and filled in by the room's service just before its child starts.

    Raises InvalidInput for a payload that its kind does not take, Fenced.
    """
    payload = read_payload(claim.kind, claim.payload)
    if isinstance(payload, ReplicaPayload):  # the machine that claimed it says where it is reached
        payload = payload.model_copy(update={"host": ctx.policy.replica_host})
    if isinstance(payload, LoadTestPayload):
        payload = load_tests.fill_targets(ctx, claim.with_payload(payload))
    if isinstance(payload, ImportPayload):
        payload = imports.fill_cluster(ctx, payload, job_id=claim.job_id)
    ready = claim.with_payload(payload)
    if not isinstance(payload, LoadTestPayload):
        own_keys.create_job_key(ctx, ready)
    fill = PREPARE.get(claim.kind)
    if fill is None:
        return ready
    with ctx.db.write() as session:
        renew(session, ctx, ready)
        return ready.with_payload(fill(session, ready))


def record_events(
    session: Session, ctx: Context, claim: Claim[Payload], events: Iterable[Event]
) -> ProgressEvent | None:
    """Write a batch of events. Returns the newest progress, if there is any."""
    progress: ProgressEvent | None = None
    # consecutive metrics are written as one batch; the order of events is kept
    for type_, group in groupby(events, key=type):
        batch = list(group)
        if type_ is ProgressEvent:
            progress = cast("ProgressEvent", batch[-1])
        elif type_ is LogEvent:
            session.add_all(_log_line(claim, event) for event in cast("list[LogEvent]", batch))
        elif type_ is MetricsEvent and claim.kind is JobKind.TRAIN:
            run_events.record_metrics(
                session, ctx, cast("Claim[TrainPayload]", claim), cast("list[MetricsEvent]", batch)
            )
        elif recorder := RECORDERS.get((claim.kind, type_)):
            for event in batch:
                recorder(session, ctx, claim, event)
    return progress


def _log_line(claim: Claim[Payload], event: LogEvent) -> LogLine:
    text = event.text[:MAX_LINE_CHARACTERS].replace("\x00", "")  # PostgreSQL holds no NUL
    return LogLine(job_id=claim.job_id, attempt=claim.attempt, time=event.time, text=text)


def record_finish(session: Session, ctx: Context, claim: Claim[Any], result: JobResult) -> JobResult:
    """Let the room's service record the result of a finished job; return the result to store with the job."""
    own_keys.revoke_job_keys(session, ctx, claim)
    for recorder in FINISHED.get(claim.kind, ()):
        result = recorder(session, ctx, claim, result) or result
    return result


def record_bad_end(session: Session, ctx: Context, claim: Claim[Any]) -> None:
    """Let the room's service tidy up after an attempt that failed, was cancelled, lost or given back, or crashed."""
    if claim.kind is JobKind.REPLICA:
        replicas.record_end(session, ctx, claim)
    own_keys.revoke_job_keys(session, ctx, claim)


def _record_checkpoint(session: Session, ctx: Context, claim: Claim[TrainPayload], event: CheckpointEvent) -> None:
    checkpoint_files.record_checkpoint(session, ctx, claim, event)
    # losses before it cost nothing
    session.execute(update(Job).where(Job.id == claim.job_id, Job.lost > 0).values(lost=0))
    open_suites.start_at_checkpoint(session, ctx, claim, event)


Recorder = Callable[[Session, Context, Claim[Any], Any], None]
Finisher = Callable[[Session, Context, Claim[Any], Any], JobResult | None]
"""Records a result, and returns it if it was completed."""

RECORDERS: dict[tuple[JobKind, type[Event]], Recorder] = {
    (JobKind.EVALUATE, ItemEvent): items.record_item,
    (JobKind.GENERATE, CompletionEvent): generation.record_completion,
    (JobKind.REPLICA, ReadyEvent): replicas.record_ready,
    (JobKind.REPLICA, GaugeEvent): replicas.record_gauge,
    (JobKind.TRAIN, ResumedEvent): run_events.record_resumed,
    (JobKind.TRAIN, RowsEncodedEvent): run_events.record_rows,
    (JobKind.TRAIN, SampleEvent): run_events.record_sample,
    (JobKind.TRAIN, CheckpointEvent): _record_checkpoint,
    (JobKind.TRAIN, CheckpointRemovedEvent): checkpoint_files.record_checkpoint_removed,
}
"""The service that records an event of a kind of job. Other events stay in the events file."""


FINISHED: dict[JobKind, tuple[Finisher, ...]] = {
    JobKind.IMPORT_DATASET: (imports.record_import,),
    JobKind.TRAIN_TOKENIZER: (tokenizers.record_tokenizer,),
    JobKind.TOKENIZER_REPORT: (tokenizer_reports.record_report,),
    JobKind.ADD_BASE: (bases.record_base,),
    JobKind.TRAIN: (
        run_events.record_run_end,
        measurements.record_run,
        rematches.enter_rematch,
        open_suites.start_at_end,
    ),
    JobKind.EVALUATE: (safety_runs.complete_scores, items.record_scores),
    JobKind.CLASSIFY: (toxicity.record_toxicity,),
    JobKind.JUDGE: (records.record_verdicts,),
    JobKind.GENERATE: (generation.record_generated,),
    JobKind.REPLICA: (replicas.record_end,),
    JobKind.INSPECT: (inspections.record_inspection,),
    JobKind.DATA_REPORT: (data_reports.record_data_report,),
    JobKind.PROBE: (measurements.record_probe,),
    JobKind.LOAD_TEST: (load_tests.record_load_test,),
}


PREPARE: dict[JobKind, Callable[[Session, Claim[Any]], Payload]] = {
    JobKind.TRAIN: run_parts.fill_payload,
    JobKind.PROBE: run_parts.fill_payload,
}
"""Fills in a payload's unfinished parts when its job starts. Returns the payload."""
