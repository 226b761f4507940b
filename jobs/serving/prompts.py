"""Encode a request as token ids: by the checkpoint's chat template, as raw text, or the given ids."""

from __future__ import annotations

from typing import Any

from backend.domain.serving.protocol import GenerateRequest
from backend.errors import InvalidInput, RoundhouseError
from jobs.modeling.chat.render import encode_prompt
from jobs.modeling.tokenizers import encode_plain_prompt


def encode_request(tokenizer: Any, request: GenerateRequest) -> list[int]:
    """Return the prompt's token ids. Raises InvalidInput where the chat template refuses the messages.

    Templates come with checkpoints and are untrusted; backend.domain.template_guard renders them.
    """
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.prompt is not None:
        return encode_plain_prompt(tokenizer, request.prompt)
    messages = [message.as_dict() for message in request.messages or ()]
    try:
        return encode_prompt(tokenizer, messages, tools=list(request.tools) if request.tools else None)
    except RoundhouseError as error:
        raise InvalidInput(error.message, remedy=error.remedy, field="messages") from error
