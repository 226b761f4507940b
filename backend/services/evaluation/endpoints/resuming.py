"""Resume the evaluation of an endpoint that failed or was stopped: its answers were paid for, and are not asked for
again.
"""

from __future__ import annotations

import contextlib
import shutil

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Evaluation, Job
from backend.domain.evaluation.endpoints import EndpointTarget, JudgeTarget
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.states import Status
from backend.services.context import Context, Person
from backend.services.jobs.jobs import add_job

LEDGER = "items.jsonl"
"""File of a job's folder with the items that it has scored."""


def resume_evaluation(
    session: Session,
    ctx: Context,
    *,
    fingerprint: str,
    target: EndpointTarget,
    judge: JudgeTarget | None,
    person: Person,
) -> str | None:
    """Give the newest failed or stopped evaluation of a fingerprint a new job that continues it; return its id, None
    without one.
    """
    query = (
        select(Evaluation, Job)
        .join(Job, Job.id == Evaluation.job_id)
        .where(
            Evaluation.fingerprint == fingerprint,
            Evaluation.endpoint_id.is_not(None),
            Job.status.in_([Status.FAILED, Status.CANCELLED]),
        )
        .order_by(Evaluation.created_at.desc())
        .limit(1)
    )
    newest = session.execute(query).first()
    if newest is None:
        return None
    row, ended = newest
    payload = EvaluatePayload.read(ended.payload).model_copy(update={"endpoint": target, "judge": judge})
    job = add_job(session, ctx, payload, title=ended.title, device="cpu", created_by=person.id)
    folder = ctx.artifacts.job_folder(job.id)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # nothing was scored, or the folder has been cleared
        shutil.copyfile(ctx.artifacts.path(f"jobs/{ended.id}/{LEDGER}"), folder / LEDGER)
        ctx.artifacts.send(f"jobs/{job.id}")
    row.job_id, row.record = job.id, row.record.model_copy(update={"resumed": True})
    session.flush()
    return str(row.id)
