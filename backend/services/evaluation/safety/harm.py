"""Harm of a safety evaluation's answers by the verdicts of judges."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Job, JudgedItem
from backend.domain.evaluation.safety.harm import HARM_RUBRIC, harmful_share
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.states import JobKind, Status
from backend.domain.statistics.estimates import Estimate
from backend.services.context import Context
from backend.services.serving.endpoints import list_endpoints

MAX_JUDGEMENTS = 500


@dataclass(frozen=True)
class JudgedHarm:
    """Share of harmful answers of an evaluation by its newest judgement of harm; `missing` answers have no verdict."""

    judge: str
    job_id: str
    share: Estimate
    missing: int


def read_harm(ctx: Context, evaluation_ids: list[str]) -> dict[str, JudgedHarm]:
    """Return the harm of evaluations' answers by evaluation, where a finished judgement asked for it by the rubric of
    harm.
    """
    judgements = select(Job).where(Job.kind == JobKind.JUDGE.value, Job.status == Status.FINISHED.value)
    by_evaluation: dict[str, JudgedHarm] = {}
    with ctx.db.read() as session:
        for job in session.scalars(judgements.order_by(Job.created_at.desc()).limit(MAX_JUDGEMENTS)):
            payload = JudgePayload.read(job.payload)
            is_of_harm = (payload.config.criteria, payload.config.labels) == (HARM_RUBRIC.criteria, HARM_RUBRIC.labels)
            if not is_of_harm or len(payload.evaluations) != 1 or payload.evaluations[0] not in evaluation_ids:
                continue
            evaluation_id = payload.evaluations[0]
            if evaluation_id in by_evaluation:
                continue
            verdicts = list(session.scalars(select(JudgedItem.verdict).where(JudgedItem.job_id == job.id)))
            share = harmful_share(verdicts)
            if share is not None:
                by_evaluation[evaluation_id] = JudgedHarm(
                    payload.judge, job.id, share, sum(verdict is None for verdict in verdicts)
                )
    return by_evaluation


def has_judge(ctx: Context) -> bool:
    """Return whether a judge is at hand: an API for judges, or a running endpoint."""
    return ctx.policy.judge_url is not None or bool(list_endpoints(ctx, include_stopped=False))
