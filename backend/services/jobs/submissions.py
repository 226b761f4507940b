"""Submissions: workers that a compute provider starts for the jobs placed on it. A duty of one worker at a time.

The provider's states are advice. A job runs when a worker has claimed it, and is ordered again when it waits and no
order is open. Each order is a row before it is made, so that two sweeps make one, and has a key, by which the provider
finds an order whose answer was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError

from backend.db.tables import Job, Provider, Submission
from backend.domain.jobs.placement import (
    MAX_SUBMISSIONS,
    SHARDS,
    Partition,
    Placement,
    SubmissionState,
    submission_key,
)
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import TERMINAL, Status
from backend.errors import InvalidInput, RoundhouseError, Unavailable
from backend.infra.compute.base import ComputeProvider, SubmittedOrder, WorkerOrder
from backend.services.context import Context
from backend.services.jobs.claims import eligible
from backend.services.jobs.jobs import add_log_line

log = logging.getLogger(__name__)

MAX_ORDERS = 50
"""Workers ordered in one sweep."""
UNANSWERED = timedelta(seconds=60)
"""Age from which an order without an id counts as lost on its way."""
MISSED = timedelta(seconds=20)
"""Time for a worker to take its job that a provider started and then forgot, as Slurm's controller does when killed."""
ORDERING = timedelta(seconds=20)
"""Longest time that a sweep orders workers, so that pages soon hear of the provider again."""
LEAVES = timedelta(seconds=30)
"""Time that a worker has to exit by itself after the end of its job."""
TAKES_AGAIN = timedelta(seconds=60)
"""Time in which a running worker takes its job again after the lease lapsed. If it does not, its node is dead."""


def tend_submissions(ctx: Context, provider: ComputeProvider) -> None:
    """Record what a provider says of its partitions and of open orders, withdraw those of ended jobs and the tasks of
    ended imports, and order workers for jobs that wait.
    """
    partitions, problem = list[Partition](), ""
    try:
        try:
            partitions += provider.check()
        except InvalidInput as error:  # the settings are wrong; open orders are followed all the same
            problem = str(error)
        orders = provider.status()
    except RoundhouseError as error:
        _record_provider(ctx, provider.name, [], problem=problem or str(error))
        return
    _record_provider(ctx, provider.name, partitions, problem=problem)
    _end_shards(ctx, provider, orders)
    _follow(ctx, provider, {one.key: one for one in orders if SHARDS not in one.key})
    offered = {str(Placement(provider.name, partition.name)): partition for partition in partitions if partition.is_up}
    began = ctx.now()
    for job_id in _due(ctx, list(offered)):
        try:
            _order(ctx, provider, job_id, offered=offered)
        except Unavailable as error:
            log.warning("job %s is submitted later: %s", job_id, error)
            return
        except Exception as error:  # the others still get their turn
            log.warning("job %s could not be submitted: %s", job_id, error)
        if ctx.now() - began > ORDERING:
            return


def _record_provider(ctx: Context, name: str, partitions: list[Partition], *, problem: str) -> None:
    with ctx.db.write() as session:
        row = session.get(Provider, name)
        if row is None:
            row = Provider(name=name)
            session.add(row)
        row.partitions, row.problem, row.checked_at = partitions, problem, ctx.now()


def _end_shards(ctx: Context, provider: ComputeProvider, orders: Sequence[SubmittedOrder]) -> None:
    """Cancel the tasks that read shards of imports that have ended: one whose process was killed could not."""
    job_of = {one.id: _job_of(one.key) for one in orders if SHARDS in one.key and one.state != SubmissionState.ENDED}
    if not job_of:
        return
    with ctx.db.read() as session:
        ended = select(Job.id).where(Job.id.in_(set(job_of.values())), Job.status.in_(TERMINAL))
        job_ids = set(session.scalars(ended))
    for external_id in [external_id for external_id, job_id in job_of.items() if job_id in job_ids]:
        try:
            provider.cancel(external_id)
        except RoundhouseError as error:
            log.warning("tasks %s of an ended import could not be cancelled: %s", external_id, error)


def _follow(ctx: Context, provider: ComputeProvider, listed: Mapping[str, SubmittedOrder]) -> None:
    """Write what became of each order that is open, or that the provider still holds."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Submission, Job)
            .join(Job, Job.id == Submission.job_id)
            .where(Job.placement.startswith(f"{provider.name}:", autoescape=True))
            .where(
                or_(Submission.state != SubmissionState.ENDED, Submission.job_id.in_({_job_of(key) for key in listed}))
            )
            .order_by(Submission.job_id, Submission.number)
        ).all()
    newest = {row.job_id: row.number for row, _ in rows}
    for row, job in rows:
        try:
            one = listed.get(submission_key(row.job_id, row.number))
            if one is None:
                _miss(ctx, row, job, ctx.now())
            else:
                _update(ctx, provider, row, job, one, is_newest=row.number == newest[row.job_id])
        except Exception as error:  # the others still get their turn
            log.warning("order %s of job %s could not be updated: %s", row.number, row.job_id, error)


def _update(
    ctx: Context, provider: ComputeProvider, row: Submission, job: Job, one: SubmittedOrder, *, is_newest: bool
) -> None:
    """Write what a provider says of an order, and withdraw it if it is needless."""
    is_needless = not is_newest or job.status in TERMINAL
    if (is_needless and _may_cancel(one, job, ctx.now())) or _is_dead(one, row, job, ctx.now()):
        provider.cancel(one.id)
    reported = {"external_id": one.id, "state": one.state, "word": one.word, "reason": one.reason[:200]}
    if row.missed_at is not None or any(getattr(row, name) != value for name, value in reported.items()):
        if one.state is SubmissionState.ENDED:
            provider.cancel(one.id)  # Slurm holds a job whose launch has failed
        _write(ctx, row, **reported, missed_at=None)
        if one.state is SubmissionState.ENDED and job.status == Status.QUEUED and job.attempt == row.attempt:
            _record_output(ctx, provider, row, f"{one.word} {one.reason}".strip())


def _miss(ctx: Context, row: Submission, job: Job, now: datetime) -> None:
    """Note that a provider does not know an order, and later take it for ended, unless its job runs under a lease."""
    if row.state == SubmissionState.ENDED or (row.external_id is None and now - row.submitted_at <= UNANSWERED):
        return
    if row.missed_at is None:
        _write(ctx, row, missed_at=now)
    elif job.status in TERMINAL or (job.status == Status.QUEUED and now - row.missed_at > MISSED):
        _write(ctx, row, state=SubmissionState.ENDED, word="forgotten", reason="")


def _may_cancel(one: SubmittedOrder, job: Job, now: datetime) -> bool:
    """Return whether a needless order can be withdrawn: it has no worker yet, or its worker does not exit."""
    if one.state is SubmissionState.WAITING:
        return True
    return one.state is SubmissionState.RUNNING and job.finished_at is not None and now - job.finished_at > LEAVES


def _is_dead(one: SubmittedOrder, row: Submission, job: Job, now: datetime) -> bool:
    """Return whether an order is said to run whose worker has lost its job and does not take it again."""
    if one.state is not SubmissionState.RUNNING or job.status != Status.QUEUED or job.not_before is None:
        return False
    return job.attempt > row.attempt and now - job.not_before > TAKES_AGAIN


def _job_of(key: str) -> str:
    return key.split("-")[1] if key.count("-") == 2 else ""


def _write(ctx: Context, row: Submission, **values: object) -> None:
    with ctx.db.write() as session:
        session.execute(
            update(Submission).where(Submission.job_id == row.job_id, Submission.number == row.number).values(**values)
        )


def _record_output(ctx: Context, provider: ComputeProvider, row: Submission, end: str) -> None:
    """Copy the end of the output of a worker that never took its job into the job's log."""
    lines = [f"{provider.name} job {row.external_id} ended before a worker took this job: {end}"]
    lines += _log(ctx, provider, row)
    with ctx.db.write() as session:
        for line in lines:
            add_log_line(session, ctx, row.job_id, line.rstrip()[:2000], attempt=row.attempt + 1)


def _due(ctx: Context, placements: list[str]) -> list[str]:
    """Return the jobs with one of these placements that wait for a worker that no one has ordered."""
    is_open = (Submission.job_id == Job.id, Submission.state != SubmissionState.ENDED)
    with ctx.db.read() as session:
        query = (
            select(Job.id)
            .where(eligible(ctx.now()), Job.placement.in_(placements))
            .where(~select(Submission.number).where(*is_open).exists())
            .order_by(Job.priority, Job.created_at, Job.id)
        )
        return list(session.scalars(query.limit(MAX_ORDERS)))


def _order(ctx: Context, provider: ComputeProvider, job_id: str, *, offered: Mapping[str, Partition]) -> None:
    """Order a worker on each machine of a job with an offered placement, or fail the job if the provider refuses or its
    workers never took it.
    """
    try:
        with ctx.db.write() as session:
            job = session.get_one(Job, job_id)
            before = select(Submission).where(Submission.job_id == job_id)
            ended = list(session.scalars(before.order_by(Submission.number)))
            if any(row.state != SubmissionState.ENDED for row in ended):  # another worker has just ordered it
                return
            missed = [row for row in ended if row.attempt == job.attempt and row.external_id is not None]
            row = Submission(
                job_id=job_id,
                number=max((row.number for row in ended), default=0) + 1,
                attempt=job.attempt,
                submitted_at=ctx.now(),
            )
            if len(missed) < MAX_SUBMISSIONS:
                session.add(row)
    except IntegrityError:  # another worker orders it at this moment (PostgreSQL)
        return
    if len(missed) >= MAX_SUBMISSIONS:
        _fail(ctx, job_id, _explain_missed(ctx, provider, missed, job.num_machines))
        return
    partition = offered[job.placement or ""]
    has_gpus = job.device_request != "cpu" and partition.num_gpus > 0
    try:
        external_id = provider.submit(
            WorkerOrder(
                key=submission_key(job_id, row.number),
                job_id=job_id,
                partition=partition.name,
                num_gpus=job.num_devices if has_gpus or job.device_request == "gpu" else 0,
                num_cpus=1 if has_gpus else job.num_devices,
                output=_output(ctx, provider, job_id, row.number),
                num_machines=job.num_machines,
            )
        )
    except InvalidInput as error:
        _write(ctx, row, state=SubmissionState.ENDED, word="refused", reason=error.message[:200])
        _fail(ctx, job_id, JobFailure.of(error))
        return
    except (Unavailable, OSError) as error:
        _write(ctx, row, reason=str(error)[:200])
        raise
    _write(ctx, row, external_id=external_id)


def _explain_missed(ctx: Context, provider: ComputeProvider, missed: list[Submission], num_machines: int) -> JobFailure:
    jobs = ", ".join(str(row.external_id) for row in missed)
    output = _log(ctx, provider, missed[-1])
    return JobFailure(
        cause=f"{len(missed) * num_machines} workers ended before they took this job ({provider.name} jobs {jobs}).",
        remedy="Read the end of the log. Where it starts a worker needs this version, database and artifacts.",
        tail="\n".join(output)[-2000:],
    )


def _fail(ctx: Context, job_id: str, failure: JobFailure) -> None:
    with ctx.db.write() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id, Job.status == Status.QUEUED)
            .values(status=Status.FAILED, error=failure, finished_at=ctx.now())
        )


def _log(ctx: Context, provider: ComputeProvider, row: Submission) -> Sequence[str]:
    return provider.log(submission_key(row.job_id, row.number), _output(ctx, provider, row.job_id, row.number))


def _output(ctx: Context, provider: ComputeProvider, job_id: str, number: int) -> Path:
    return ctx.artifacts.job_folder(job_id) / f"{provider.name}-{number}.log"
