"""Encode a request's prompts as token ids: by the checkpoint's chat template, as raw text, or the given ids."""

from __future__ import annotations

from typing import Any

from backend.domain.serving.protocol import GenerateRequest, Task
from backend.domain.serving.tool_prompt import write_tools
from backend.domain.template_guard import variables_of
from backend.errors import InvalidInput, RoundhouseError
from jobs.modeling.chat.render import encode_answer, encode_completion, render_chat, text_alone
from jobs.modeling.tokenizers import encode_plain_prompt
from jobs.serving.engine import PromptTooLong
from jobs.serving.forming import offered_tools

TOOL_NAME = "tool"  # stands in every template that has a place for tools


class PromptLimit:
    """Refuses texts that can't fit a context, before they are tokenized: no token of the vocabulary spans more characters."""

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
                f"The prompt has {size}; this network's context holds {self.context_length:,} tokens, answer included.",
                remedy="Shorten the prompt or the conversation.",
                field="messages" if request.messages else "prompt",
            )


def encode_prompts(tokenizer: Any, request: GenerateRequest, *, opening: str = "") -> list[list[int]]:
    """Return the token ids of each prompt. Raises InvalidInput where the chat template refuses the messages.

    `opening` follows the rendered messages: the beginning of an answer. Templates come with checkpoints and are untrusted;
    backend.domain.template_guard renders them.
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


def _variables(tokenizer: Any, request: GenerateRequest, tools: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return what the chat template gets beside the messages: the request's own variables, and its effort by the switch that there is."""
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
        text = render_chat(tokenizer, messages, tools=tools, generation_prompt=True, variables=_variables(tokenizer, request, tools))
    except RoundhouseError as error:
        raise InvalidInput(error.message, remedy=error.remedy, field=error.field or "messages") from error
    before, after = encode_answer(tokenizer, text, opening)
    return [*before, *after]
