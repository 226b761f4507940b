"""Render conversations to tokens with the checkpoint's own template, with a mask of the trained tokens.

Training, playground, endpoints, evaluation and battles all render here.

A special token spelled in a message (`<|im_end|>`) stays text: a zero-width space is inserted before the template is
rendered, so that only the template opens and closes turns.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from backend.domain.checkpoints.chat_templates import CHAT_TEMPLATE, PLAIN_TEMPLATE, ROLE_TOKENS, TEXT_TEMPLATE
from backend.domain.data.rows.conversations import template_messages
from backend.domain.json_values import JsonObject
from backend.domain.template_costs import TemplateTooCostly
from backend.domain.template_guard import render_template, variables_of
from backend.errors import InvalidInput

Message = JsonObject
Tools = list[JsonObject] | None
MAX_CHARACTERS = 2_000_000
BREAK = "\u200b"  # a zero-width space: invisible to a reader, and no special token to the tokenizer
_ROLE_MARK = re.compile(r"<\|[^|<>]+\|>")  # such tokens mark turns even if the tokenizer does not declare them special
_patterns: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[int, str], re.Pattern[str] | None]] = (
    weakref.WeakKeyDictionary()
)
_closings: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, str]] = weakref.WeakKeyDictionary()


class ConversationRefused(InvalidInput):
    """The template rejects a conversation; others may be accepted."""


@dataclass(frozen=True)
class EncodedChat:
    """Token ids with a mask of the trained ones. `skipped` counts the answers that are not trained on."""

    ids: list[int]
    mask: list[bool]
    skipped: int = 0


def ensure_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Set the plain chat template on a tokenizer without one; return whether it had its own."""
    if tokenizer.chat_template:
        return bool(tokenizer.chat_template != PLAIN_TEMPLATE)
    tokenizer.chat_template = PLAIN_TEMPLATE
    return False


def teach_template(tokenizer: PreTrainedTokenizerBase, *, chats: bool) -> None:
    """Set the chat template for training.

    Training on plain text (`chats` false) sets the plain template, as such a network only continues text. Training on
    conversations keeps the tokenizer's template, or sets ours: with role tokens if the vocabulary holds them.
    """
    if not chats:
        tokenizer.chat_template = PLAIN_TEMPLATE
    elif not ensure_template(tokenizer):
        has_roles = set(ROLE_TOKENS) <= set(tokenizer.get_vocab())
        tokenizer.chat_template = CHAT_TEMPLATE if has_roles else TEXT_TEMPLATE


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Tools = None,
    generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Render messages to the network's input text. `variables` are what the template reads beside them, such as
    `enable_thinking`.

    Raises ConversationRefused with the template's message if it rejects the conversation (an unknown role, a forbidden
    order) or fails on it, InvalidInput if the template exceeds its limits or does not read a variable.
    """
    size = sum(len(str(message.get("content") or "")) for message in messages)
    if size > MAX_CHARACTERS:
        raise ConversationRefused(
            f"The conversation has {size:,} characters, and at most {MAX_CHARACTERS:,} are rendered."
        )
    template, pattern = tokenizer.get_chat_template(tools=tools), _special_pattern(tokenizer)
    own: dict[str, object] = {
        **tokenizer.special_tokens_map,
        "messages": [{**_as_text(m, pattern), "role": m["role"]} for m in template_messages(list(messages))],
        "tools": _as_text(tools, pattern),
        "documents": None,
        "add_generation_prompt": generation_prompt,
    }
    try:
        _check_variables(variables or {}, template, own)
        return render_template(template, **own, **_as_text(dict(variables or {}), pattern))
    except TemplateTooCostly as error:
        raise InvalidInput(
            f"The checkpoint's chat template was stopped: {error.message}.",
            remedy="Use a checkpoint with a sound template.",
        ) from error
    except TemplateError as error:
        roles = ", ".join(str(message.get("role", "?")) for message in messages[:12]) + (
            ", ..." if len(messages) > 12 else ""
        )
        raise ConversationRefused(
            f"The checkpoint's chat template refuses the conversation ({roles}): {error}"
        ) from error


def _check_variables(variables: Mapping[str, Any], template: str, own: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a variable that the template does not read, unless it is as good as missing, and for one
    of the request's.
    """
    read = variables_of(template) - own.keys() if variables else frozenset[str]()
    for name, value in variables.items():
        if name in own or (name not in read and value):
            names = ", ".join(sorted(read)) or "none"
            raise InvalidInput(
                f"chat_template_kwargs.{name}: the chat template of this model has no such variable.",
                remedy=f"It has these beside the messages: {names}.",
                field=f"chat_template_kwargs.{name}",
            )


def _special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Return a pattern of a tokenizer's special tokens; None if it has none. Cached, as there may be hundreds."""
    mark = (len(tokenizer), str(tokenizer.special_tokens_map))
    known = _patterns.get(tokenizer)
    if known is None or known[0] != mark:
        added = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or _ROLE_MARK.fullmatch(token.content)
        ]
        names = sorted(
            {name for name in [*added, *map(str, tokenizer.all_special_tokens)] if len(name.strip()) > 1},
            key=len,
            reverse=True,
        )
        known = _patterns[tokenizer] = (mark, re.compile("|".join(map(re.escape, names))) if names else None)
    return known[1]


def text_alone(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Break the special tokens spelled in a text, as `render_chat` does in messages."""
    freed: str = _as_text(text, _special_pattern(tokenizer))
    return freed


def _render_upto(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools) -> str:
    """Render messages up to the end of the last turn, as if more turns followed."""
    return render_chat(tokenizer, messages, tools=tools).removesuffix(_closing(tokenizer))


def _closing(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the template adds after the last turn of a finished conversation (Phi-3: an end token);
    usually empty.
    """
    mark = (len(tokenizer), tokenizer.chat_template)
    known = _closings.get(tokenizer)
    if known is None or known[0] != mark:
        known = _closings[tokenizer] = (mark, _find_closing(tokenizer))
    return known[1]


def _find_closing(tokenizer: PreTrainedTokenizerBase) -> str:
    question = [{"role": "user", "content": "a"}]
    exchange = [*question, {"role": "assistant", "content": "b"}]
    try:
        prompt, finished = render_chat(tokenizer, question, generation_prompt=True), render_chat(tokenizer, exchange)
        pairs = zip(finished, render_chat(tokenizer, [*exchange, *question]), strict=False)
    except InvalidInput:
        return ""
    shared = finished[: sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))]
    pattern = _special_pattern(tokenizer)
    end = max((match.end() for match in pattern.finditer(shared, len(prompt))), default=0) if pattern else 0
    return finished[end:] if end and len(shared) < len(finished) and finished.startswith(prompt) else ""


def _as_text(value: Any, pattern: re.Pattern[str] | None) -> Any:
    """Break the special tokens spelled in a value's texts, after their first character."""
    if pattern is None:
        return value
    if isinstance(value, str):
        while pattern.search(value):  # the rest of one may spell another
            value = pattern.sub(lambda match: match[0][0] + BREAK + match[0][1:], value)
        return value
    if isinstance(value, dict):
        return {_as_text(key, pattern): _as_text(part, pattern) for key, part in value.items()}
    return [_as_text(part, pattern) for part in value] if isinstance(value, list | tuple) else value


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools = None) -> list[int]:
    """Encode a prompt, up to where generation of the assistant's answer begins."""
    text = render_chat(tokenizer, messages, tools=tools, generation_prompt=True)
    return _encode(tokenizer, text)["input_ids"]  # type: ignore[no-any-return]


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the ids of a rendered prompt and of its answer, tokenised together as in training.

    A token that spans the border belongs to the answer.
    """
    encoded = _encode(tokenizer, prompt + answer)
    ids: list[int] = encoded["input_ids"]
    first = next((place for place, (_, right) in enumerate(encoded["offset_mapping"]) if right > len(prompt)), len(ids))
    return ids[:first], ids[first:]


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], completion: Sequence[Message], *, tools: Tools = None
) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of the turns after it, up to the last end token.

    Raises ConversationRefused if the template rejects them, or renders the prompt differently once an answer follows.
    """
    before = render_chat(tokenizer, prompt, tools=tools, generation_prompt=True)
    upto = _render_upto(tokenizer, [*prompt, *completion], tools)
    if not upto.startswith(before):
        raise ConversationRefused(
            "The checkpoint's chat template renders the prompt differently once an answer follows, so no tokens that"
            " generation would see can be trained on."
        )
    return encode_answer(tokenizer, before, upto[len(before) : _answer_end(tokenizer, upto, len(before))])


def assistant_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools = None
) -> list[tuple[int, str, str]]:
    """Return (index, text before the answer, the answer with its end token) of each assistant turn, as rendered text.

    Each is rendered as in generation: the text before it without the turns that follow.
    """
    answers = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or not index:
            continue
        before = render_chat(tokenizer, messages[:index], tools=tools, generation_prompt=True)
        upto = _render_upto(tokenizer, messages[: index + 1], tools)
        if upto.startswith(before) and (answer := upto[len(before) : _answer_end(tokenizer, upto, len(before))]):
            answers.append((index, before, answer))
    return answers


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token with which the chat template ends an answer, if any.

    Usually the tokenizer's end token. The template of a fine-tuned base may close turns with another one, which
    training then teaches, so generation must stop there too.
    """
    if not tokenizer.chat_template:
        return None
    try:
        answers = assistant_turns(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    except InvalidInput:
        return None
    ids = encode_answer(tokenizer, *answers[0][1:])[1] if answers else []
    special = ids and tokenizer.added_tokens_decoder.get(ids[-1])
    return ids[-1] if special and special.special else None


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools = None
) -> tuple[list[int], list[bool]]:
    """Encode a conversation with a mask of the trained tokens: assistant turns with their end tokens, nothing else.

    The ids equal `tokenizer.apply_chat_template(messages)`, and up to the last answer they equal `encode_prompt`. An
    answer that the template renders differently once more turns follow (with its reasoning removed, say) is not trained
    on, because generation never sees those tokens; neither is a token that spans the border of prompt and answer.
    """
    encoded, _ = _encode_whole(tokenizer, messages, tools)
    return encoded.ids, encoded.mask


def training_chats(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools = None
) -> list[EncodedChat]:
    """Encode a conversation for training, so that every answer is trained on once, as generation renders it.

    The first result is `encode_chat`. An answer that the template rewrites once more turns follow is added as a
    conversation of its own that ends with it. One that generation could never render as the template does counts as
    `skipped`.
    """
    conversation, rewritten = _encode_whole(tokenizer, messages, tools)
    alone, lost = [], 0
    for index in rewritten:
        single, again = (
            (conversation, [index])
            if index == len(messages) - 1
            else _encode_whole(tokenizer, messages[: index + 1], tools, only=index)
        )
        if again:
            lost += 1
        else:
            alone.append(single)
    return [EncodedChat(conversation.ids, conversation.mask, skipped=lost), *alone]


def _encode_whole(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools, *, only: int | None = None
) -> tuple[EncodedChat, list[int]]:
    """Encode a conversation; return it with the indices of answers (of `only` that one) not trained on."""
    text = render_chat(tokenizer, messages, tools=tools)
    encoded = _encode(tokenizer, text)
    ids: list[int] = encoded["input_ids"]
    mask = [False] * len(ids)
    rewritten = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or only not in (None, index):
            continue
        prompt = render_chat(tokenizer, messages[:index], tools=tools, generation_prompt=True) if index else None
        is_last = index == len(messages) - 1
        upto = (
            text.removesuffix(_closing(tokenizer)) if is_last else _render_upto(tokenizer, messages[: index + 1], tools)
        )
        if prompt is None or not (text.startswith(upto) and upto.startswith(prompt)):
            rewritten.append(index)
            continue
        start, end = len(prompt), _answer_end(tokenizer, upto, len(prompt))
        for position, (left, right) in enumerate(encoded["offset_mapping"]):
            if left >= start and right <= end and right > left:
                mask[position] = True
    return EncodedChat(ids, mask), rewritten


def _answer_end(tokenizer: PreTrainedTokenizerBase, upto: str, start: int) -> int:
    """Return the end of an answer: after its end token, without a line break that the template adds.

    The end token is the tokenizer's, or another special token with which the template closes a turn.
    """
    eos = tokenizer.eos_token
    eos_at = upto.rfind(eos, start) if eos else -1
    if eos and eos_at >= 0:
        return eos_at + len(eos)
    stripped = upto.rstrip()
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return len(stripped) if len(stripped) > start and any(stripped.endswith(token) for token in specials) else len(upto)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Any:
    if not tokenizer.is_fast:
        raise InvalidInput(
            "The checkpoint's tokenizer has no fast form (tokenizer.json), which training and chat need."
        )
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
