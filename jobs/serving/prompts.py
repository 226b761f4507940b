"""From a request to token ids: the checkpoint's chat template, or plain text where it has none."""

from __future__ import annotations

from typing import Any

from backend.domain.chat import GenerateRequest, plain_transcript
from backend.errors import InvalidInput


def encode_request(tokenizer: Any, request: GenerateRequest) -> list[int]:
    """Return the prompt's token ids. Raises InvalidInput where the chat template refuses the messages.

    Templates come with checkpoints, so they are untrusted; transformers renders them in Jinja's immutable sandbox.
    """
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.prompt is not None:
        return list(tokenizer(request.prompt)["input_ids"])
    messages = request.messages or ()
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer(plain_transcript(messages))["input_ids"])
    turns = [{"role": m.role.value, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything; what it says is about the messages
        raise InvalidInput(f"The checkpoint's chat template refuses these messages: {error}", field="messages") from error
    # The template writes its own special tokens; adding the tokenizer's again would begin the prompt twice.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
