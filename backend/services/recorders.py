"""Which service records which event of which kind of job, and what happens when a job of a kind ends. Tables, no logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from backend.domain.job_states import JobKind
from backend.services import (
    bases,
    campaigns,
    checkpoint_files,
    data_reports,
    datasets,
    deployments,
    evaluations,
    measurements,
    preference_sets,
    readings,
    run_events,
    run_parts,
    tokenizer_reports,
    tokenizers,
)
from backend.services.context import Context
from backend.services.jobs import Claim

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
    (JobKind.REPLICA, "ready"): deployments.record_ready,
    (JobKind.REPLICA, "gauge"): deployments.record_gauge,
    (JobKind.TRAIN, "metrics"): run_events.record_metrics,
    (JobKind.TRAIN, "resumed"): run_events.record_resumed,
    (JobKind.TRAIN, "sample"): run_events.record_sample,
    (JobKind.TRAIN, "checkpoint"): checkpoint_files.record_checkpoint,
    (JobKind.TRAIN, "checkpoint_removed"): checkpoint_files.record_checkpoint_removed,
}
FINISHED: dict[JobKind, Recorder] = {
    JobKind.IMPORT_DATASET: datasets.record_import,
    JobKind.TRAIN_TOKENIZER: tokenizers.record_tokenizer,
    JobKind.TOKENIZER_REPORT: tokenizer_reports.record_report,
    JobKind.ADD_BASE: bases.record_base,
    JobKind.TRAIN: in_turn(run_events.record_run_end, measurements.record_run, preference_sets.enter_rematch),
    JobKind.EVALUATE: evaluations.record_scores,
    JobKind.GENERATE: campaigns.record_generated,
    JobKind.REPLICA: deployments.record_end,
    JobKind.INSPECT: readings.record_reading,
    JobKind.DATA_REPORT: data_reports.record_data_report,
    JobKind.PROBE: measurements.record_probe,
}
ENDED_BADLY: dict[JobKind, Recorder] = {
    JobKind.REPLICA: deployments.record_end,
}
PREPARE: dict[JobKind, Callable[[Session, Context, Claim], dict[str, Any]]] = {
    JobKind.TRAIN: run_parts.fill_payload,
    JobKind.PROBE: run_parts.fill_payload,
}
"""Fills in, when a job starts, what was still being made when it was asked for. Returns the payload."""
