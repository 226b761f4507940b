"""Live state of runs for browsers that poll twice a second: status, progress, newest values."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from backend.db.tables import Job, Run
from backend.domain.jobs.placement import parse_placement
from backend.domain.jobs.progress import format_progress, read_progress
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.services.context import Context, Person
from backend.services.jobs.queue_position import queue_positions
from backend.services.people.signatures import sign_for, unsign_for

FRESH_S, MAX_WATCHED = 0.2, 256
PURPOSE = "points"
TOKEN_AGE_S = 12 * 3600


@dataclass(frozen=True)
class RunState:
    """A run as a live view needs it. `share` is progress from 0 to 1; `last` the newest value of each metric."""

    id: str
    name: str
    status: Status
    line: str
    share: float
    last_step: int
    last: dict[str, float]
    spark: tuple[float, ...] | None

    @property
    def is_active(self) -> bool:
        """Return whether it is queued, running or being stopped."""
        return self.status in ACTIVE


def token_for_runs(ctx: Context, run_ids: Iterable[str], *, person: Person) -> str:
    """Return the signed statement that lets a browser read these runs' points for twelve hours, and until the account
    is signed out everywhere.
    """
    return sign_for(ctx, person, {"runs": ",".join(run_ids)}, purpose=PURPOSE)


def runs_of_token(ctx: Context, token: str) -> list[str]:
    """Return the run ids that a token names. Raises NotAllowed if forged or too old, or its account was signed out."""
    _, data = unsign_for(ctx, token, purpose=PURPOSE, max_age_s=TOKEN_AGE_S)
    return [run_id for run_id in data.get("runs", "").split(",") if run_id]


def run_states(ctx: Context, run_ids: Sequence[str], *, with_spark: bool = False) -> dict[str, RunState]:
    """Return the states of runs by id, without deleted runs."""
    with ctx.db.read() as session:
        rows = session.execute(select(Run, Job).outerjoin(Job, Job.id == Run.job_id).where(Run.id.in_(run_ids))).all()
        ahead = queue_positions(session, [job for _, job in rows if job is not None and job.status == Status.QUEUED])
    return {run.id: _state(run, job, ahead=ahead, with_spark=with_spark) for run, job in rows}


class StateCache:
    """States of the runs that people watch, read once in `FRESH_S` for all who watch the same."""

    def __init__(self) -> None:
        self._read: OrderedDict[tuple[str, ...], tuple[float, dict[str, RunState]]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, ctx: Context, run_ids: Sequence[str]) -> dict[str, RunState]:
        """Return the states of runs by id, without deleted runs."""
        key = (ctx.db.url, *run_ids)
        with self._lock:
            read_at, states = self._read.get(key, (-1e9, {}))
        if time.monotonic() - read_at < FRESH_S:
            return states
        began = time.monotonic()
        states = run_states(ctx, run_ids)
        with self._lock:
            self._read[key] = began, states
            self._read.move_to_end(key)
            while len(self._read) > MAX_WATCHED:
                self._read.popitem(last=False)
        return states


def active_run_ids(ctx: Context) -> list[str]:
    """Return the ids of the runs that are queued or running, the running first, then in the order they will start."""
    with ctx.db.read() as session:
        query = (
            select(Run.id)
            .join(Job, Job.id == Run.job_id)
            .where(Job.kind == JobKind.TRAIN.value, Job.status.in_(ACTIVE))
            .order_by(Job.status == Status.QUEUED, Job.priority, Job.created_at)
            .limit(50)
        )
        return list(session.scalars(query))


def queue_counts(ctx: Context) -> dict[str, dict[str, int]]:
    """Return how many jobs of each queue wait and run: {queue: {"queued": n, "running": n}}."""
    with ctx.db.read() as session:
        query = (
            select(Job.queue, Job.status, func.count()).where(Job.status.in_(ACTIVE)).group_by(Job.queue, Job.status)
        )
        counts: dict[str, dict[str, int]] = {}
        for queue, status, number in session.execute(query):
            key = "queued" if status == Status.QUEUED else "running"
            of_queue = counts.setdefault(queue, {"queued": 0, "running": 0})
            of_queue[key] += number
        return counts


def describe_state(status: Status, *, job: Job | None, last_step: int, ahead: int) -> str:
    """Return a run's state in one line."""
    if job is None:
        return "Not started"
    if status is Status.QUEUED:
        lost = "Worker lost; waiting" if job.lost else "Waiting"
        if job.placement:
            resuming = f" to resume, attempt {job.attempt + 1}" if job.attempt else ""
            return f"{lost} for {parse_placement(job.placement).label}{resuming}"
        if job.attempt:
            return f"{lost} to resume from the last checkpoint, if any (attempt {job.attempt + 1})"
        return "Next in the queue" if ahead == 0 else f"In the queue, {ahead} ahead"
    if status is Status.CANCELLING:
        return "Stopping and saving" if job.stop_request == "stop_and_save" else "Stopping"
    if status is Status.FAILED:
        return job.error.cause or "Failed"
    if status is Status.CANCELLED:
        return f"Stopped at step {last_step:,}" if last_step else "Stopped before the first step"
    if status is Status.FINISHED:
        return f"Finished at step {last_step:,}"
    again = f"Starting again, attempt {job.attempt}" if job.attempt > 1 else "Starting"
    return format_progress(read_progress(job.progress)) or again


def read_state(run: Run, job: Job | None, *, ahead: int) -> tuple[Status, str, float]:
    """Return a run's status, its state in one line, and its progress from 0 to 1. An imported run is finished."""
    imported = run.summary.imported
    if imported is not None:
        return Status.FINISHED, f"{run.last_step:,} steps, from {imported.format}", 1.0
    status = Status(job.status) if job is not None else Status.CANCELLED
    progress = read_progress(job.progress) if job is not None else None
    share = 1.0 if status is Status.FINISHED else progress.share if progress is not None else 0.0
    return status, describe_state(status, job=job, last_step=run.last_step, ahead=ahead), share


def _state(run: Run, job: Job | None, *, ahead: dict[str, int], with_spark: bool) -> RunState:
    status, line, share = read_state(run, job, ahead=ahead.get(job.id, 0) if job else 0)
    return RunState(
        id=run.id,
        name=run.name,
        status=status,
        share=round(share, 4),
        last_step=run.last_step,
        line=line,
        last=run.summary.last,
        spark=tuple(value for _, value in run.summary.spark) if with_spark else None,
    )
