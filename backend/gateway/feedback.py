"""`POST /v1/feedback`: a thumb, a correction or a comment on an answer; and bodies on their way to the request log."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, model_validator
from starlette.requests import Request

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import GenerateRequest
from backend.domain.serving.request_log import JOB, OPT_OUT, LoggedBody, LogMode
from backend.gateway.dialects.fields import StrictBody
from backend.gateway.directory import Directory, Principal
from backend.gateway.errors import ApiError

RATINGS = {"up": 1, "down": -1, 1: 1, -1: -1}
TRIES, PAUSE_S = 4, 0.4  # a request is stored shortly after its answer
JOB_ID = re.compile(r"[0-9a-z]{12}")
OFF = {"off", "0", "false", "no"}


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


def job_of(http: Request) -> str | None:
    """Return the job that a request names as the one it is made for; None for a header that is not an id."""
    job = http.headers.get(JOB, "")
    return job if JOB_ID.fullmatch(job) else None


def body_to_log(
    mode: LogMode, http: Request, request: GenerateRequest, *, kind: Literal["chat", "text"]
) -> LoggedBody | None:
    """Return what the log takes of a request: nothing where its endpoint logs nothing or the client opts out."""
    if mode == "off" or http.headers.get(OPT_OUT, "").strip().lower() in OFF:
        return None
    params = request.params.model_dump(mode="json", exclude_defaults=True, exclude={"logit_bias", "constraint"})
    return LoggedBody(kind=kind, params=params, messages=_messages(request) if mode == "bodies" else None)


def _messages(request: GenerateRequest) -> list[JsonObject]:
    if request.messages is not None:
        return [message.as_dict() for message in request.messages]
    texts = (
        [request.prompt]
        if request.prompt is not None
        else [prompt for prompt in request.prompts or () if isinstance(prompt, str)]
    )
    return [{"role": "user", "content": text} for text in texts]
