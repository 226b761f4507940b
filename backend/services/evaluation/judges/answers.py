"""Answers of evaluations as items for a judge: those of one by a rubric, or those of two on the same items as pairs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from backend.db.tables import EvaluationItem, Job
from backend.domain.evaluation.judges import JudgeItem
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.states import Status, status_word
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation, list_evaluations

Shown = dict[str, Any]


def list_answered(ctx: Context, *, like: EvaluationView | None = None) -> list[EvaluationView]:
    """Return finished evaluations with generated answers, newest first; with `like` others on its benchmark."""
    evaluations = list_evaluations(ctx, version_id=like.version_id if like else None)
    answered = [
        one for one in evaluations if one.status is Status.FINISHED and one.scores and one.kind.value == "generation"
    ]
    return [one for one in answered if like is None or one.id != like.id]


def evaluation_items(ctx: Context, evaluation_id: str, *, against: str | None = None) -> list[JudgeItem]:
    """Return the answers of a finished evaluation, or the pairs of its answers and those of `against` on the items that
    both have.

    Items without an answer are left out. Raises NotFound, Conflict for one that has not finished, InvalidInput without
    answers.
    """
    first = _finished(ctx, evaluation_id)
    second = _finished(ctx, against) if against else None
    if second is not None and second.version_id != first.version_id:
        raise InvalidInput(
            f"{first.benchmark} and {second.benchmark} are two benchmarks, so no item has two answers.",
            remedy="Choose two evaluations of one benchmark.",
            field="against",
        )
    answers = _answers(ctx, first.id)
    others = _answers(ctx, second.id) if second is not None else {}
    items = [
        JudgeItem(
            id=item_hash,
            prompt=_prompt(shown),
            answer=str(shown["completion"]),
            answer_b=str(others[item_hash]["completion"]) if second is not None else None,
            reference=_reference(shown),
            group=first.checkpoint,
            group_b=second.checkpoint if second is not None else "",
        )
        for item_hash, shown in answers.items()
        if second is None or item_hash in others
    ]
    if not items:
        what = "have no item with an answer of both" if second else "has no generated answers"
        raise InvalidInput(
            f"The evaluation{'s' if second else ''} {what}.",
            remedy="Choose one of generated answers.",
            field="evaluation",
        )
    return items


def judged_evaluations(ctx: Context, job_id: str) -> list[EvaluationView]:
    """Return the evaluations whose answers a judgement read, without deleted ones."""
    with ctx.db.read() as session:
        judged = JudgePayload.read(session.get_one(Job, job_id).payload).evaluations
    by_id = {one.id: one for one in list_evaluations(ctx)} if judged else {}
    return [by_id[key] for key in judged if key in by_id]


def _finished(ctx: Context, evaluation_id: str) -> EvaluationView:
    evaluation = get_evaluation(ctx, evaluation_id)
    if evaluation.status is not Status.FINISHED:
        raise Conflict(
            f"The evaluation of “{evaluation.checkpoint}” is {status_word(evaluation.status)}.",
            remedy="Wait until it has finished.",
        )
    return evaluation


def _answers(ctx: Context, evaluation_id: str) -> dict[str, Shown]:
    query = select(EvaluationItem.item_hash, EvaluationItem.shown, EvaluationItem.values)
    query = query.where(EvaluationItem.evaluation_id == evaluation_id).order_by(EvaluationItem.position)
    with ctx.db.read() as session:
        rows = session.execute(query).all()
    return {row.item_hash: dict(row.shown) for row in rows if "completion" in row.shown and "missing" not in row.values}


def _prompt(shown: Shown) -> str:
    return str(shown.get("question") or shown.get("prompt") or "")


def _reference(shown: Shown) -> str:
    answer = shown.get("answer")
    return str(answer[0]) if isinstance(answer, list) and answer else str(answer or "")
