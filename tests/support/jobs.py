"""Jobs as rows, reporters that remember, and specs from plain values: what tests of services and rooms share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Job
from backend.domain.jobs.events import Event, LogEvent, MetricsEvent, ProgressEvent, SampleEvent
from backend.domain.jobs.payloads import read_payload
from backend.domain.jobs.records import Payload
from backend.domain.jobs.results import RESULTS
from backend.domain.jobs.states import JobKind, Status, StopRequest
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.job_events import prepare_claim, record_finish
from backend.services.jobs.claims import Claim, claim_job, end_job
from backend.services.jobs.jobs import JobView, add_job, view
from jobs.reporter import JobSpec, Reporter

P = TypeVar("P", bound=Payload)


class _AnyPayload(Payload):
    model_config = ConfigDict(extra="allow")


def add_stored_job(
    session: Session,
    ctx: Context,
    kind: JobKind,
    *,
    title: str = "job",
    payload: dict[str, Any] | None = None,
    **values: Any,
) -> Job:
    """Insert a queued job with any payload, as a row of an earlier version may hold."""
    loose: type[_AnyPayload] = type("Loose", (_AnyPayload,), {"job_kind": kind})
    job = add_job(session, ctx, loose(**(payload or {})), title=title, **values)
    with suppress(InvalidInput):
        job.num_devices = read_payload(kind, job.payload).num_devices
    return job


def list_jobs(
    ctx: Context, *, statuses: tuple[Status, ...] = (), queue: str | None = None, limit: int = 100
) -> list[JobView]:
    """Return stored jobs, newest first."""
    with ctx.db.read() as session:
        query = select(Job).order_by(Job.created_at.desc()).limit(limit)
        if statuses:
            query = query.where(Job.status.in_(statuses))
        if queue:
            query = query.where(Job.queue == queue)
        return [view(job) for job in session.scalars(query)]


def make_spec(
    kind: str, payload: dict[str, Any], *, root: Path, job: str = "job", attempt: int = 1, folder: Path | None = None
) -> JobSpec[Any]:
    """Return an attempt at a job, with a folder of its own below `root`."""
    folder = folder or root / "jobs" / job
    folder.mkdir(parents=True, exist_ok=True)
    return JobSpec(id=job, attempt=attempt, payload=read_payload(JobKind(kind), payload), artifacts=root, folder=folder)


def with_payload(spec: JobSpec[P], **fields: Any) -> JobSpec[P]:
    """Return a spec whose payload has other values."""
    return replace(spec, payload=spec.payload.model_copy(update=fields))


def take_job(ctx: Context, job_id: str | None) -> Claim[Any]:
    """Claim a job and read its payload, as a worker's parent process does."""
    taken = claim_job(ctx, str(job_id), owner="worker#1", host="here")
    assert taken is not None
    return prepare_claim(ctx, taken)


def finish_job(session: Session, ctx: Context, claim: Claim[Any], **result: Any) -> None:
    """Record a job's result and end it, as a worker's parent process does."""
    stored = record_finish(session, ctx, claim, RESULTS[claim.kind].model_validate(result))
    end_job(session, ctx, claim, Status.FINISHED, result=stored)


class MemoryReporter(Reporter):
    """A reporter that keeps every event. Subclasses decide when it asks to stop."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    def emit(self, event: Event) -> None:
        self.all.append(event)

    def should_stop(self) -> StopRequest | None:
        return None

    @property
    def lines(self) -> list[str]:
        """The lines of the log."""
        return [event.text for event in self.all if isinstance(event, LogEvent)]

    @property
    def points(self) -> list[tuple[int, dict[str, Any]]]:
        """The metrics, as (step, values)."""
        return [(event.step, event.values) for event in self.all if isinstance(event, MetricsEvent)]

    @property
    def samples(self) -> list[tuple[int, str, str]]:
        """The sample completions, as (step, prompt, completion)."""
        return [(event.step, event.prompt, event.completion) for event in self.all if isinstance(event, SampleEvent)]

    @property
    def progressed(self) -> list[tuple[float, float]]:
        """The progress, as (done, total)."""
        return [(event.done, event.total) for event in self.all if isinstance(event, ProgressEvent)]

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """All but log, metrics, samples and progress, as (type, fields)."""
        plain = LogEvent | MetricsEvent | SampleEvent | ProgressEvent
        return [(event.type, fields_of(event)) for event in self.all if not isinstance(event, plain)]

    def of(self, type_: str) -> list[dict[str, Any]]:
        """Return the fields of all events of a type."""
        return [fields_of(event) for event in self.all if event.type == type_]

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric in the order reported."""
        return [(step, values[name]) for step, values in self.points if name in values]


def fields_of(event: Event) -> dict[str, Any]:
    """Return an event's own fields."""
    return event.model_dump(exclude={"type", "time"})
