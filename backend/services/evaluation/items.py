"""Items of an evaluation, page by page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import func, or_, select

from backend.db.tables import EvaluationItem
from backend.domain.evaluation.config import EvaluationKind
from backend.services.context import Context
from backend.services.evaluation.evaluations import get_evaluation

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

    Of texts, `wrong` are those that the network predicts worse than its mean, worst first. `truncated` items lost part of their prompt,
    or their answer ended at its longest length. `positions` leaves only items at these positions.
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
