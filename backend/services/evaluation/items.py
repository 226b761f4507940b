"""Items of an evaluation: recorded as its job reports them, and read page by page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.db.tables import Evaluation, EvaluationItem, Score
from backend.domain.evaluation.config import EvaluationKind
from backend.domain.jobs.events import ItemEvent
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import EvaluateResult
from backend.services.context import Context
from backend.services.evaluation.evaluations import get_evaluation
from backend.services.evaluation.packed_items import store_packed
from backend.services.jobs.claims import Claim

Which = Literal["all", "wrong", "right", "truncated"]


@dataclass(frozen=True)
class ItemView:
    """Outcome of one item."""

    item_hash: str
    position: int
    values: dict[str, float]
    shown: dict[str, Any]


def list_items(
    ctx: Context,
    evaluation_id: str,
    *,
    which: Which = "all",
    positions: Collection[int] | None = None,
    offset: int = 0,
    limit: int = 20,
) -> tuple[list[ItemView], int]:
    """Return a page of an evaluation's items and how many there are. `wrong` and `right` go by the main metric.

    Of texts, `wrong` are those that the network predicts worse than its mean, worst first. `truncated` items lost part
    of their prompt, or their answer ended at its longest length. `positions` leaves only items at these positions.
    """
    evaluation = get_evaluation(ctx, evaluation_id)
    metric = evaluation.main_metric
    value = EvaluationItem.values[metric].as_float()
    query = select(EvaluationItem).where(EvaluationItem.evaluation_id == evaluation_id)
    order: tuple[Any, ...] = (EvaluationItem.position,)
    if positions is not None:
        query = query.where(EvaluationItem.position.in_(positions))
    if which == "truncated":
        cut = [EvaluationItem.shown["cut"].as_integer() > 0, EvaluationItem.values["cut"].as_float() > 0]
        query = query.where(or_(EvaluationItem.shown["finish_reason"].as_string() == "length", *cut))
    elif which != "all" and evaluation.kind is EvaluationKind.PERPLEXITY:
        score = evaluation.main_score
        bound = score.value if score else 0.0
        query = query.where(value > bound if which == "wrong" else value <= bound)
        order = (value.desc() if which == "wrong" else value.asc(), EvaluationItem.position)
    elif which != "all":
        query = query.where(value < 1.0 if which == "wrong" else value >= 1.0)
    with ctx.db.read() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        rows = session.scalars(query.order_by(*order).offset(offset).limit(limit))
        return [ItemView(r.item_hash, r.position, dict(r.values), dict(r.shown)) for r in rows], total


def record_item(session: Session, ctx: Context, claim: Claim[EvaluatePayload], event: ItemEvent) -> None:
    """Store the outcome of one item. A repeated one, as after a lost worker, changes nothing."""
    insert = (sqlite.insert if ctx.db.is_sqlite else postgresql.insert)(EvaluationItem)
    row = {
        "evaluation_id": claim.payload.evaluation_id,
        "item_hash": event.item_hash[:64],
        "position": event.position,
        "values": {name: value for name, value in event.values.items() if value is not None},
        "shown": _without_nul(event.shown),
    }
    session.execute(insert.values(row).on_conflict_do_nothing(index_elements=["evaluation_id", "item_hash"]))


def record_scores(session: Session, ctx: Context, claim: Claim[EvaluatePayload], result: EvaluateResult) -> None:
    """Write the scores of a finished evaluation. A score that is not a number, as of a network that computes NaN, is
    left out.
    """
    row = session.get(Evaluation, claim.payload.evaluation_id)
    if row is None:
        return
    if claim.payload.check is not None:
        row.record = row.record.model_copy(update={"check": result.check})
        return
    session.execute(delete(Score).where(Score.evaluation_id == row.id))
    session.add_all(
        Score(evaluation_id=row.id, **score.model_dump()) for score in result.scores if score.value is not None
    )
    row.record = row.record.model_copy(update={"facts": result.facts})
    store_packed(session, row.id)


def _without_nul(value: Any) -> Any:
    """PostgreSQL holds no NUL in text."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, list):
        return [_without_nul(part) for part in value]
    return {key: _without_nul(part) for key, part in value.items()} if isinstance(value, dict) else value
