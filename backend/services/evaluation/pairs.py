"""Items of two evaluations side by side: fixed, broken, wrong in both."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select

from backend.db.tables import EvaluationItem
from backend.services.context import Context
from backend.services.evaluation.comparisons import Comparison, Flip
from backend.services.evaluation.items import ItemView

PairChoice = Literal["fixed", "broken", "both_wrong"]


def list_pairs(ctx: Context, comparison: Comparison, choice: PairChoice, *, offset: int = 0, limit: int = 10) -> tuple[list[Flip], int]:
    """Return a page of the items that the second fixed or broke, or that both have wrong, and how many there are.

    Only for metrics where more is better and 1 is right.
    """
    first, second = comparison.first.id, comparison.second.id
    value = EvaluationItem.values[comparison.metric].as_float()
    query = select(EvaluationItem.evaluation_id, EvaluationItem.item_hash, EvaluationItem.position, value)
    sides: dict[str, dict[str, float]] = {first: {}, second: {}}
    with ctx.db.read() as session:
        ordered = query.where(EvaluationItem.evaluation_id.in_([first, second])).order_by(EvaluationItem.position)
        for evaluation_id, item_hash, _, score in session.execute(ordered):
            if score is not None:
                sides[evaluation_id][item_hash] = float(score)
    before, after = sides[first], sides[second]
    tests = {
        "fixed": lambda a, b: b > a,
        "broken": lambda a, b: b < a,
        "both_wrong": lambda a, b: a < 1.0 and b < 1.0 and a == b,
    }
    chosen = [key for key in before if key in after and tests[choice](before[key], after[key])]
    page = chosen[offset : offset + limit]
    views: dict[str, dict[str, ItemView]] = {first: {}, second: {}}
    rows = select(EvaluationItem).where(EvaluationItem.evaluation_id.in_([first, second]), EvaluationItem.item_hash.in_(page))
    with ctx.db.read() as session:
        for row in session.scalars(rows):
            views[row.evaluation_id][row.item_hash] = ItemView(row.item_hash, row.position, dict(row.values), dict(row.shown))
    return [Flip(views[first][key], views[second][key]) for key in page], len(chosen)
