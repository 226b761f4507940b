"""Jobs: create, stop and list them. The worker's side is in backend.services.jobs.claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Job, LogLine
from backend.domain.attributes import view_of
from backend.domain.jobs.artifact_folders import folders_in
from backend.domain.jobs.progress import Progress, read_progress
from backend.domain.jobs.records import JobFailure, JobResult, Payload
from backend.domain.jobs.states import ACTIVE, QUEUE_OF, TERMINAL, Status, StopRequest, status_word
from backend.errors import Conflict, NotFound
from backend.services.context import Context, Person, require_builder

R = TypeVar("R", bound=JobResult)


@dataclass(frozen=True, kw_only=True)
class JobState:
    """The state of a job, and of what it makes: see `job_state`."""

    status: Status
    progress: Progress | None
    error: JobFailure

    @property
    def is_active(self) -> bool:
        """Return whether the job is queued, running or being stopped."""
        return self.status in ACTIVE


@dataclass(frozen=True, kw_only=True)
class JobView(JobState):
    """A job as pages and the command line see it."""

    id: str
    kind: str
    queue: str
    title: str
    priority: int
    attempt: int
    device: str | None
    owner: str | None
    result: dict[str, Any]
    stop_request: str | None
    placement: str | None
    num_machines: int
    depends_on: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    def result_as(self, kind: type[R]) -> R | None:
        """Read the result as the class of the job's kind; None while there is none."""
        return kind.model_validate(self.result) if self.result else None


def job_state(job: Job | None, *, is_made: bool = False) -> dict[str, Any]:
    """Return status, error and progress of what a job makes; finished if it `is_made`, or without a job."""
    return {
        "status": Status.FINISHED if is_made or job is None else Status(job.status),
        "error": job.error if job else JobFailure(),
        "progress": read_progress(job.progress) if job else None,
    }


def view(job: Job) -> JobView:
    """Copy a row into a view that outlives the session."""
    return view_of(
        JobView,
        job,
        status=Status(job.status),
        progress=read_progress(job.progress),
        result=dict(job.result or {}),
        depends_on=job.depends_on_id,
    )


def add_job(
    session: Session,
    ctx: Context,
    payload: Payload,
    *,
    title: str,
    priority: int = 5,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    idempotency_key: str | None = None,
    depends_on: str | None = None,
    placement: str | None = None,
    restarts_forever: bool = False,
    created_by: str | None = None,
) -> Job:
    """Insert a queued job inside the caller's transaction. Call `wake(ctx, job.queue)` after the commit.

    What its payload names and no store has yet is sent to it: uploads, and rows written for this job.
    """
    ctx.artifacts.send_unsent(folders_in(payload))
    job = Job(
        kind=payload.job_kind.value,
        queue=QUEUE_OF[payload.job_kind],
        title=title[:200],
        payload=payload.dump(),
        priority=priority,
        device_request=device,
        num_devices=payload.num_devices,
        num_machines=payload.num_machines,
        idempotency_key=idempotency_key,
        depends_on_id=depends_on,
        placement=placement,
        restarts_forever=restarts_forever,
        max_attempts=ctx.policy.max_attempts,
        created_by=created_by,
        created_at=ctx.now(),
    )
    session.add(job)
    session.flush()
    return job


def wake(ctx: Context, queue: str) -> None:
    """Send a wake-up to one worker of a queue. If the broker is down, `recover_jobs` sends it later."""
    ctx.queue.publish(queue)


def get_job(ctx: Context, job_id: str) -> JobView:
    """Return one job. Raises NotFound."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.")
        return view(job)


def request_stop(ctx: Context, job_id: str, how: StopRequest = "cancel") -> JobView:
    """Request that a job stops: a queued one is cancelled at once, a running one becomes `cancelling`.

    `cancel` replaces an earlier `stop_and_save`. Raises NotFound, or Conflict if the job has ended.
    """
    with ctx.db.write() as session:
        job = lock_job(session, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.")
        if Status(job.status) in TERMINAL:
            raise Conflict(f"This job is already {status_word(job.status)}.")
        ask_to_stop(job, how, now=ctx.now())
        session.flush()
        return view(job)


def lock_job(session: Session, job_id: str) -> Job | None:
    """Return a job as it is now; no worker takes or ends it before this transaction is over."""
    return session.get(Job, job_id, with_for_update=True, populate_existing=True)


def ask_to_stop(job: Job, how: StopRequest, *, now: datetime) -> None:
    """Cancel a queued job, or request a running one to stop. The job must be locked and must not have ended."""
    if job.status in (Status.QUEUED, Status.PAUSED):
        job.status, job.finished_at, job.stop_request = Status.CANCELLED, now, how
    else:
        job.status, job.stop_request, job.stop_requested_at = Status.CANCELLING, how, now


def stop_job(ctx: Context, job_id: str, *, person: Person) -> JobView:
    """Request that a job stops, for a person. Raises NotAllowed, NotFound, or Conflict if it has ended."""
    require_builder(person)
    return request_stop(ctx, job_id)


def add_log_line(session: Session, ctx: Context, job_id: str, text: str, *, attempt: int) -> None:
    """Add a line of the product's own to the log of an attempt."""
    session.add(LogLine(job_id=job_id, attempt=attempt, time=ctx.now().timestamp(), text=text))


def read_log(ctx: Context, job_id: str, *, earlier: Sequence[str] = (), last: int = 200) -> list[str]:
    """Return the last lines of a job's log, oldest first, with a line between two attempts; `earlier` are the jobs that
    it continues.
    """
    with ctx.db.read() as session:
        query = (
            select(LogLine.job_id, LogLine.attempt, LogLine.text)
            .where(LogLine.job_id.in_([*earlier, job_id]))
            .order_by(LogLine.id.desc())
            .limit(last)
        )
        rows = list(reversed(session.execute(query).all()))
    lines: list[str] = []
    before: tuple[str, int] | None = None
    for job, attempt, text in rows:
        if before is not None and before != (job, attempt):
            lines.append(f"--- attempt {attempt} ---" if before[0] == job else "--- resumed ---")
        before = job, attempt
        lines.append(text)
    return lines
