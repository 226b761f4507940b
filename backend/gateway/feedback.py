"""`POST /v1/feedback`: a thumb, a correction or a comment on an answer."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, model_validator

from backend.gateway.dialects.fields import StrictBody
from backend.gateway.directory import Directory, Principal
from backend.gateway.errors import ApiError

RATINGS = {"up": 1, "down": -1, 1: 1, -1: -1}
TRIES, PAUSE_S = 4, 0.4  # a request is stored shortly after its answer


class FeedbackBody(StrictBody):
    """A thumb, a correction or a comment on the answer of this `id`."""

    id: Annotated[str, Field(min_length=1, max_length=40, validation_alias=AliasChoices("id", "request_id"))]
    rating: Literal["up", "down", 1, -1] | None = None
    correction: Annotated[str, Field(max_length=200_000)] = ""
    comment: Annotated[str, Field(max_length=10_000)] = ""

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.rating is None and not self.correction and not self.comment:
            raise ValueError("give a rating ('up' or 'down'), a correction or a comment")
        return self


async def post_feedback(directory: Directory, body: FeedbackBody, *, principal: Principal | None) -> dict[str, object]:
    """Store feedback of the key that made the request. Raises ApiError 404 for a request of another key, or none."""
    key_id = principal.key_id if principal else None
    rating = None if body.rating is None else RATINGS[body.rating]
    for attempt in range(TRIES):
        stored = await asyncio.to_thread(
            directory.give_feedback,
            body.id,
            key_id=key_id,
            rating=rating,
            correction=body.correction,
            comment=body.comment,
        )
        if stored:
            return {"id": body.id, "object": "feedback", "rating": body.rating}
        if attempt < TRIES - 1:
            await asyncio.sleep(PAUSE_S)
    raise ApiError(
        404, f"This key made no request {body.id!r}; send the `id` of its answer.", code="request_not_found", param="id"
    )
