"""Encode a request's prompts as token ids: by the checkpoint's chat template, as raw text, or the given ids; and limit
what is read and answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.domain.serving.protocol import GenerateRequest, Task
from backend.domain.serving.tool_calls import write_tools
from backend.domain.template_guard import variables_of
from backend.errors import InvalidInput, RoundhouseError
from jobs.modeling.chat.render import encode_answer, encode_completion, render_chat, text_alone
from jobs.modeling.tokenizers import encode_plain_prompt
from jobs.serving.engine import PromptTooLong
from jobs.serving.forming import offered_tools

# Limits of what one answer may hold: a request of kilobytes must not lead to an answer of gigabytes.
MAX_TOKENS = 2**19
MAX_PROBABILITIES = 2**18
MAX_VECTOR_VALUES = 2**21
REMEDY = "Ask for fewer prompts, answers (n), tokens or alternatives, or send several requests."
TOOL_NAME = "tool"  # stands in every template that has a place for tools


class PromptLimit:
    """Refuses texts that can't fit a context before they are tokenized: no token spans more characters."""

    def __init__(self, tokenizer: Any, *, context_length: int) -> None:
        longest = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self.context_length, self.max_characters = context_length, context_length * longest

    def check(self, request: GenerateRequest) -> None:
        """Raise PromptTooLong for a prompt that is too long by its characters or token ids."""
        prompts = (request.token_ids or (), request.prompt or "", *(request.prompts or ()))
        ids = max(len(prompt) for prompt in prompts if not isinstance(prompt, str))
        characters = max(len(prompt) for prompt in prompts if isinstance(prompt, str))
        characters = max(characters, *(sum(map(len, pair)) for pair in request.pairs or ((),)))
        characters = max(characters, sum(len(message.content) for message in request.messages or ()))
        is_read = request.echo or request.task is not Task.GENERATE
        if ids >= self.context_length + is_read or characters > self.max_characters:
            size = f"{ids:,} tokens" if ids else f"{characters:,} characters"
            raise PromptTooLong(
                f"The prompt has {size}; this model's context holds {self.context_length:,} tokens, answer included.",
                remedy="Shorten the prompt or the conversation.",
                field="messages" if request.messages else "prompt",
            )


def encode_prompts(tokenizer: Any, request: GenerateRequest, *, opening: str = "") -> list[list[int]]:
    """Return the token ids of each prompt. Raises InvalidInput where the chat template refuses the messages.

    `opening` follows the rendered messages: the beginning of an answer. Templates come with checkpoints and are
    untrusted; backend.domain.template_guard renders them.
    """
    if request.messages is not None:
        return [_encode_messages(tokenizer, request, opening=opening)]
    if request.pairs is not None:
        return [_encode_pair(tokenizer, prompt, answer) for prompt, answer in request.pairs]
    single = request.token_ids if request.token_ids is not None else request.prompt or ""
    prompts = (single,) if request.prompts is None else request.prompts
    return [encode_plain_prompt(tokenizer, prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]


def _encode_pair(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """Encode a prompt and its answer as reward models are trained on them."""
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    before, after = encode_completion(tokenizer, [user], [assistant])
    return [*before, *after]


def _variables(tokenizer: Any, request: GenerateRequest, tools: list[dict[str, object]] | None) -> dict[str, object]:
    """Return what the chat template gets beside the messages: the request's own variables, and its effort by the switch
    that there is.
    """
    if request.effort is None or not tokenizer.chat_template:
        return request.template_variables
    switches = {"reasoning_effort": request.effort, "enable_thinking": request.effort not in ("none", "minimal")}
    read = variables_of(tokenizer.get_chat_template(tools=tools))
    return {name: value for name, value in switches.items() if name in read} | request.template_variables


def _encode_messages(tokenizer: Any, request: GenerateRequest, *, opening: str) -> list[int]:
    messages, tools = [message.as_dict() for message in request.messages or ()], offered_tools(tokenizer, request)
    if request.continue_final:
        opening = opening + text_alone(tokenizer, str(messages.pop()["content"]))
    if TOOL_NAME not in (tokenizer.get_chat_template(tools=tools) if tokenizer.chat_template else ""):
        messages, tools = write_tools(messages, tools), None
    try:
        text = render_chat(
            tokenizer, messages, tools=tools, generation_prompt=True, variables=_variables(tokenizer, request, tools)
        )
    except RoundhouseError as error:
        raise InvalidInput(error.message, remedy=error.remedy, field=error.field or "messages") from error
    before, after = encode_answer(tokenizer, text, opening)
    return [*before, *after]


def tokens_within_budget(
    request: GenerateRequest, *, prompts: Sequence[int], context: int, width: int = 0
) -> int | None:
    """Return the most tokens that each answer may have: `max_tokens`, or where that is not stated what the budget
    leaves, if less than the context. `prompts` holds the tokens of each prompt, `width` is that of an embedding.

    Raises InvalidInput for a request whose answer could hold more than the budget.
    """
    stated = request.params.max_tokens
    if request.task is Task.EMBED:
        if len(prompts) * width > MAX_VECTOR_VALUES:
            raise InvalidInput(
                f"These embeddings would hold {len(prompts) * width:,} numbers ({len(prompts):,} prompts x {width:,});"
                f" at most {MAX_VECTOR_VALUES:,} fit one answer.",
                remedy="Send several requests.",
                field="input",
            )
        return stated
    has_probabilities = request.params.logprobs is not None
    values = 1 + (request.params.logprobs or 0)
    most = MAX_PROBABILITIES if has_probabilities else MAX_TOKENS
    is_repeated = request.echo or request.task is Task.TOKENIZE
    fixed = sum(prompts) * request.n if is_repeated else 0
    rooms = [max(0, context - count) for count in prompts] if request.task is Task.GENERATE else []
    lengths = [room if stated is None else min(stated, room) for room in rooms]
    new = sum(lengths) * request.n
    if (fixed + new) * values <= most:
        return stated
    left = (most // values - fixed) // max(1, len(prompts) * request.n)
    if stated is None and left > 0 and rooms:
        return left
    longest = max(prompts) * is_repeated + max(lengths, default=0)
    alternatives = f" x (1 + {values - 1} alternatives)" if values > 1 else ""
    raise InvalidInput(
        f"This answer could hold {(fixed + new) * values:,} {'probabilities' if has_probabilities else 'tokens'}:"
        f" {len(prompts):,} {'prompt' if len(prompts) == 1 else 'prompts'} x {request.n:,}"
        f" {'answer' if request.n == 1 else 'answers'} of up to {longest:,}"
        f" tokens{', prompt included' if is_repeated else ''}{alternatives}. At most {most:,} fit one answer.",
        remedy=REMEDY,
        field="n" if request.n > 1 else "max_tokens" if request.task is Task.GENERATE else "prompt",
    )
