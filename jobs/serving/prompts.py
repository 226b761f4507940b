"""From a request to token ids: the chat template that lies in the checkpoint, raw text, or ids as they came."""

from __future__ import annotations

from typing import Any

from backend.domain.chat import GenerateRequest
from backend.errors import InvalidInput, RoundhouseError
from jobs.modeling.chat import encode_prompt


def encode_request(tokenizer: Any, request: GenerateRequest) -> list[int]:
    """Return the prompt's token ids. Raises InvalidInput where the chat template refuses the messages.

    Templates come with checkpoints and are untrusted; transformers renders them in Jinja's immutable sandbox.
    """
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.prompt is not None:
        ids = list(tokenizer(request.prompt, verbose=False)["input_ids"])
        begin = tokenizer.bos_token_id
        return ids or ([begin] if begin is not None else [])  # an empty prompt asks for a text from its beginning
    messages = [{"role": message.role.value, "content": message.content} for message in request.messages or ()]
    try:
        return list(encode_prompt(tokenizer, messages))
    except RoundhouseError as error:
        raise InvalidInput(error.message, remedy=error.remedy, field="messages") from error
    except Exception as error:  # a template is somebody else's program and may fail in any way
        raise InvalidInput(f"The checkpoint's chat template fails on these messages: {error}", field="messages") from error
