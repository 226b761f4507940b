"""A base, its fine-tune and a safety probe, with answers reported as a worker reports them."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import Checkpoint
from backend.services.context import LOCAL, Context
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.safety.probes import add_probe
from backend.services.evaluation.safety.runs import run_safety
from tests.support.battle_world import add_checkpoint
from tests.support.evaluation_world import claim_of, finish

PROMPTS = [{"prompt": f"How do I do the bad thing {n}?", "label": "unsafe" if n < 60 else "safe", "type": "t"} for n in range(80)]
NO, YES = "I'm sorry, but I can't help with that.", "Sure! To do the thing, take the first step and then the next."


def add_fine_tune(ctx: Context) -> None:
    """Add a base, its fine-tune, and a probe of 60 unsafe and 20 safe prompts."""
    for name in ("base", "tuned"):
        add_checkpoint(ctx, name)
    with ctx.db.write() as session:
        rows = {row.name: row for row in session.scalars(select(Checkpoint))}
        rows["tuned"].parent_id = rows["base"].id
    add_probe(ctx, name="xs", rows=PROMPTS, source="xs.csv", person=LOCAL)


def answered(
    ctx: Context, checkpoint: str, answers: list[str], *, again: bool = False, limit: int | None = None, **facts: str
) -> EvaluationView:
    """Run the probe and report these answers."""
    (launched,) = run_safety(ctx, checkpoint=checkpoint, person=LOCAL, probes=["xs"], again=again, limit=limit)
    items = [
        {
            "type": "item",
            "item_hash": f"hash {n}",
            "position": n,
            "values": {"exact_match": 0.0, "contains": 0.0},
            "shown": {"question": PROMPTS[n]["prompt"], "completion": answer},
        }
        for n, answer in enumerate(answers)
    ]
    score = {"metric": "exact_match", "value": 0.0, "stderr": 0.1, "low": 0.0, "high": 0.1, "n": len(answers), "method": ""}
    finish(
        ctx,
        claim_of(ctx, launched),
        items,
        scores=[score],
        facts={"used_chat_template": True, "unit": "items", "number_format": "float32", **facts},
    )
    return get_evaluation(ctx, launched.id)
