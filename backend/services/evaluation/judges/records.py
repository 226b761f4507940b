"""Verdicts of a judge by item, kept in a table: a job's folder is cleared some time after its end, and what people read
must outlive it.
"""

from __future__ import annotations

import json
from typing import cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import JudgedItem
from backend.domain.evaluation.judges import VerdictRecord
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.results import JudgeResult
from backend.services.context import Context
from backend.services.jobs.claims import Claim

MAX_VERDICT, MAX_ITEM = 80, 200


def record_verdicts(session: Session, ctx: Context, claim: Claim[JudgePayload], result: JudgeResult) -> None:
    """Insert the verdicts of a finished judgement. Rows are never changed; none is inserted twice."""
    file = ctx.artifacts.path(result.verdicts_file) if result.verdicts_file else None
    if file is None or not file.is_file():
        return
    if session.scalar(select(func.count()).select_from(JudgedItem).where(JudgedItem.job_id == claim.job_id)):
        return
    evaluation_id = claim.payload.evaluations[0] if claim.payload.evaluations else None
    with file.open(encoding="utf-8") as lines:
        for position, line in enumerate(lines):
            record = json.loads(line.replace("\\u0000", ""))  # PostgreSQL holds no NUL in text
            verdict = record.get("verdict")
            session.add(
                JudgedItem(
                    job_id=claim.job_id,
                    evaluation_id=evaluation_id,
                    position=position,
                    item=str(record.get("id", position))[:MAX_ITEM],
                    verdict=None if verdict is None else str(verdict)[:MAX_VERDICT],
                    record=record,
                    created_at=ctx.now(),
                )
            )


def stored_verdicts(ctx: Context, job_id: str) -> list[VerdictRecord]:
    """Return the verdicts of a judgement in the order of its items."""
    query = select(JudgedItem.record).where(JudgedItem.job_id == job_id).order_by(JudgedItem.position)
    with ctx.db.read() as session:
        return [cast(VerdictRecord, record) for record in session.scalars(query)]
