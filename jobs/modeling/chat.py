"""Conversations as tokens: rendered with the checkpoint's own template, with a mask of what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from backend.domain.chat_template import CHAT_TEMPLATE, PLAIN_TEMPLATE, ROLE_TOKENS, TEXT_TEMPLATE
from backend.errors import InvalidInput

Message = dict[str, str]


def ensure_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give a tokenizer without a chat template the plain one; return whether it had its own."""
    if tokenizer.chat_template:
        return bool(tokenizer.chat_template != PLAIN_TEMPLATE)
    tokenizer.chat_template = PLAIN_TEMPLATE
    return False


def teach_template(tokenizer: PreTrainedTokenizerBase, *, chats: bool) -> None:
    """Give a tokenizer the template of what its network is about to learn.

    A network that learns from plain text (`chats` false) goes on with what it is given, so its template is the plain one. One that
    learns from conversations keeps the template it has, or gets ours: with role tokens where its vocabulary holds them.
    """
    if not chats:
        tokenizer.chat_template = PLAIN_TEMPLATE
    elif not ensure_template(tokenizer):
        has_roles = set(ROLE_TOKENS) <= set(tokenizer.get_vocab())
        tokenizer.chat_template = CHAT_TEMPLATE if has_roles else TEXT_TEMPLATE


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
    """Render messages as the text that the network sees.

    Raises InvalidInput with the template's own words if it refuses the conversation (a role it does not know, an order it forbids).
    """
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation_prompt)
    except TemplateError as error:
        roles = ", ".join(message.get("role", "?") for message in messages)
        raise InvalidInput(f"The checkpoint's chat template refuses the conversation ({roles}): {error}") from error
    return text


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the token ids after which the network writes the assistant's answer."""
    return _encode(tokenizer, render_chat(tokenizer, messages, generation_prompt=True))["input_ids"]  # type: ignore[no-any-return]


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Return ids and, for each, whether it is trained on: the assistants' words and the end token behind them, nothing else.

    The ids equal `tokenizer.apply_chat_template(messages)`, and up to the last answer they equal `encode_prompt`. An answer that the
    template renders differently once more turns follow (reasoning that is cut out, say) is not trained on, because generation would
    never meet those tokens; a token that reaches from the prompt into the answer is not either.
    """
    text = render_chat(tokenizer, messages)
    encoded = _encode(tokenizer, text)
    ids: list[int] = encoded["input_ids"]
    mask = [False] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_chat(tokenizer, messages[:index], generation_prompt=True)
        upto = render_chat(tokenizer, messages[: index + 1])
        if not (text.startswith(prompt) and text.startswith(upto)):
            continue
        start, end = len(prompt), _answer_end(upto, len(prompt), tokenizer.eos_token)
        for position, (left, right) in enumerate(encoded["offset_mapping"]):
            if left >= start and right <= end and right > left:
                mask[position] = True
    return ids, mask


def _answer_end(upto: str, start: int, eos: str | None) -> int:
    """Where an answer ends: behind its end token, so that a line break which the template adds is left out."""
    found = upto.rfind(eos, start) if eos else -1
    return found + len(eos) if eos and found >= 0 else len(upto)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Any:
    if not tokenizer.is_fast:
        raise InvalidInput("The checkpoint's tokenizer has no fast form (tokenizer.json), which training and chat need.")
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
