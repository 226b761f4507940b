"""From what a child reports to rows: which service records which event, and which ends which kind of job.

Every recorder runs inside the transaction that renewed the lease, so a write from an older attempt never lands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from backend.db.tables import LogLine
from backend.services.context import Context
from backend.services.jobs import Claim, renew
from backend.services.recorders import ENDED_BADLY, EVENTS, FINISHED, PREPARE

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
