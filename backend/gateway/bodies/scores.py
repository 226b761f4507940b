"""`POST /v1/score` and `POST /v1/rerank`: pairs of a prompt and an answer for a reward model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.domain.serving.protocol import MAX_PROMPTS, GenerateRequest, Task
from backend.gateway.bodies.fields import ModelName, StrictBody

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
