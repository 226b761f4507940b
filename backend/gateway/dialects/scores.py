"""Answers of `/v1/score` and `/v1/rerank`."""

from __future__ import annotations

import math

from backend.domain.serving.protocol import OpenEvent, ScoreEvent
from backend.gateway.answers import read_to_end
from backend.gateway.bodies.scores import RerankBody, ScoreBody
from backend.gateway.request import ApiExchange, Events


async def collect_scores(events: Events, *, body: ScoreBody | RerankBody, exchange: ApiExchange) -> dict[str, object]:
    """Return the whole answer. A score is the network's reward; a relevance its logistic, from 0 to 1."""
    scores: dict[int, float] = {}

    def take(event: OpenEvent) -> None:
        if isinstance(event, ScoreEvent):
            scores[event.choice] = event.score

    tokens = (await read_to_end(events, take)).usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"id": exchange.id, "model": exchange.endpoint, "usage": usage}
    if isinstance(body, ScoreBody):
        data = [{"index": number, "object": "score", "score": scores[number]} for number in sorted(scores)]
        return {**head, "object": "list", "created": int(exchange.identity.created_at.timestamp()), "data": data}
    best = sorted(scores, key=lambda number: (-scores[number], number))[: body.top_n]
    results: list[dict[str, object]] = [
        {"index": number, "relevance_score": _logistic(scores[number])} for number in best
    ]
    if body.return_documents:
        results = [
            {**result, "document": {"text": body.texts[number]}} for result, number in zip(results, best, strict=True)
        ]
    return {**head, "results": results}


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
