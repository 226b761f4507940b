"""`POST /v1/score` and `POST /v1/rerank`: pairs of a prompt and an answer for a reward model, and its scores."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.domain.serving.protocol import MAX_PROMPTS, GenerateRequest, OpenEvent, ScoreEvent, Task
from backend.gateway.answers import read_to_end
from backend.gateway.dialects.fields import ModelName, StrictBody
from backend.gateway.request import ApiExchange, Events

Texts = str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]


class ScoreBody(StrictBody):
    """`POST /v1/score`, as vLLM's: a prompt (`text_1`) with one or several answers (`text_2`), or as many of both."""

    model: ModelName
    text_1: Texts
    text_2: Texts

    @model_validator(mode="after")
    def _fit(self) -> ScoreBody:
        if len(self._first) not in (1, len(self._second)):
            raise ValueError(
                f"text_1 has {len(self._first)} texts and text_2 {len(self._second)}: give one, or as many as of the"
                " other"
            )
        return self

    @property
    def _first(self) -> list[str]:
        return [self.text_1] if isinstance(self.text_1, str) else self.text_1

    @property
    def _second(self) -> list[str]:
        return [self.text_2] if isinstance(self.text_2, str) else self.text_2

    def to_request(self) -> GenerateRequest:
        """Return the request for a replica."""
        first = self._first * (len(self._second) // len(self._first))
        return GenerateRequest(pairs=tuple(zip(first, self._second, strict=True)), task=Task.SCORE)


class RerankDocument(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(extra="ignore")

    text: str


class RerankBody(StrictBody):
    """`POST /v1/rerank`, as Jina's and Cohere's: documents, which a reward model scores as answers to the query."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: ModelName
    query: str
    documents: Annotated[list[str | RerankDocument], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1, le=MAX_PROMPTS)] | None = None
    return_documents: bool = True

    @property
    def texts(self) -> list[str]:
        """Return the documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def to_request(self) -> GenerateRequest:
        """Return the request for a replica."""
        return GenerateRequest(pairs=tuple((self.query, text) for text in self.texts), task=Task.SCORE)


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
