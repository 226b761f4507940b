"""Encode a request as token ids: by the checkpoint's chat template, as raw text, or the given ids."""

from __future__ import annotations

from typing import Any

from backend.domain.serving.protocol import GenerateRequest
from backend.errors import InvalidInput, RoundhouseError
from jobs.modeling.chat.render import encode_prompt


def encode_request(tokenizer: Any, request: GenerateRequest) -> list[int]:
    """Return the prompt's token ids. Raises InvalidInput where the chat template refuses the messages.

    Templates come with checkpoints and are untrusted; backend.domain.template_guard renders them.
    """
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.prompt is not None:
        ids = list(tokenizer(request.prompt, verbose=False)["input_ids"])
        begin = tokenizer.bos_token_id
        return ids or ([begin] if begin is not None else [])  # an empty prompt starts a text
    messages = [message.as_dict() for message in request.messages or ()]
    try:
        return encode_prompt(tokenizer, messages, tools=list(request.tools) if request.tools else None)
    except RoundhouseError as error:
        raise InvalidInput(error.message, remedy=error.remedy, field="messages") from error
