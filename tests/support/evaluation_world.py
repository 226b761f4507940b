"""What a worker reports of an evaluation: items, scores and facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backend.domain.jobs.events import event_of
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.items import ItemQuery, ItemView, Which, find_items, read_index, read_items
from backend.services.jobs.claims import Claim
from tests.support.jobs import finish_job, take_job

CHOICES = [{"question": f"Question {n}?", "choices": ["yes", "no"], "answer": n % 2} for n in range(40)]
ANSWERS = [{"question": f"What is {n}?", "answers": [str(n)]} for n in range(6)]
TEXTS = [{"text": f"Text number {n}."} for n in range(12)]


def claim_of(ctx: Context, evaluation: EvaluationView) -> Claim[Any]:
    """Take an evaluation's job as a worker would."""
    return take_job(ctx, evaluation.job_id)


def item(number: int, values: dict[str, float], **shown: Any) -> dict[str, Any]:
    """Return an item event."""
    return {
        "type": "item",
        "item_hash": f"hash {number}",
        "position": number,
        "values": values,
        "shown": {"question": f"Question {number}?", **shown},
    }


def finish(
    ctx: Context,
    claim: Claim[Any],
    items: Sequence[dict[str, Any]],
    *,
    scores: Sequence[dict[str, Any]],
    facts: dict[str, Any],
) -> None:
    """Report items and scores, and end the job."""
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [event_of(item) for item in items])
    with ctx.db.write() as session:
        finish_job(session, ctx, claim, scores=tuple(scores), facts=facts)


def finish_choices(
    ctx: Context, launched: EvaluationView, right: Sequence[float], *, facts: Mapping[str, Any] | None = None
) -> EvaluationView:
    """Report one item per entry of `right`, 1 where the choice was right, and end the evaluation."""
    items = [
        item(n, {"acc": float(value), "acc_norm": float(value), "chance": 0.5}, chosen="yes" if value else "no")
        for n, value in enumerate(right)
    ]
    share = sum(right) / len(right)
    score = {
        "metric": "acc",
        "value": share,
        "stderr": 0.05,
        "low": share - 0.1,
        "high": share + 0.1,
        "n": len(right),
        "method": "Wilson 95 %",
    }
    all_facts = {
        "used_chat_template": False,
        "unit": "items",
        "number_format": "float32",
        "chance": 0.5,
        **(facts or {}),
    }
    finish(ctx, claim_of(ctx, launched), items, scores=[score], facts=all_facts)
    return get_evaluation(ctx, launched.id)


def finish_texts(ctx: Context, launched: EvaluationView, nlls: Sequence[float]) -> EvaluationView:
    """Report one document of 10 bytes per entry, and end the evaluation of perplexity."""
    items = [
        item(
            n,
            {
                "sum_nll": nll,
                "tokens": 5,
                "bytes": 10,
                "nll_per_token": nll / 5,
                "bits_per_byte": nll / 10 / 0.6931471805599453,
            },
        )
        for n, nll in enumerate(nlls)
    ]
    bpb = sum(nlls) / (10 * len(nlls)) / 0.6931471805599453
    score = {
        "metric": "bits_per_byte",
        "value": bpb,
        "stderr": 0.1,
        "low": bpb - 0.2,
        "high": bpb + 0.2,
        "n": len(nlls),
        "method": "ratio",
    }
    finish(
        ctx,
        claim_of(ctx, launched),
        items,
        scores=[score],
        facts={"used_chat_template": False, "unit": "documents", "number_format": "float32"},
    )
    return get_evaluation(ctx, launched.id)


def list_items(
    ctx: Context,
    evaluation_id: str,
    *,
    which: Which = "all",
    positions: Collection[int] | None = None,
    text: str = "",
    filter: str = "",
    offset: int = 0,
    limit: int = 20,
) -> tuple[list[ItemView], int]:
    """Return a page of an evaluation's items and how many there are; see `find_items`."""
    evaluation = get_evaluation(ctx, evaluation_id)
    index = read_index(ctx, evaluation)
    query = ItemQuery(which, text, filter, None if positions is None else frozenset(positions))
    rows = find_items(ctx, evaluation, index, query)
    return read_items(ctx, index, rows[offset : offset + limit]), len(rows)
