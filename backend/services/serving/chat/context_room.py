"""The share of a network's context that the next prompt takes, and the oldest turns that are left out. Estimates from
measured prompts.

The pages hold no tokenizer of the networks. The last answer's usage counts its prompt and itself exactly; what came
after it is estimated by the characters per token of that prompt. Where an estimate is too low, the replica refuses, and
one turn more is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.serving.protocol import ChatMessage, Role
from backend.services.serving.conversations import MessageView, build_prompt

CHARACTERS_PER_TOKEN = 3.5
TOKENS_PER_MESSAGE = 4  # role marks of a template
SHARE_FOR_ANSWER = 0.25


@dataclass(frozen=True)
class ContextUse:
    """Tokens of the line so far, characters per token, how many turns the last answer was not sent, and whether all
    tokens were counted.
    """

    tokens: int
    characters_per_token: float
    left_out: int
    is_exact: bool = False


def measure_line(line: Sequence[MessageView], *, system: str = "", messages: Sequence[MessageView] = ()) -> ContextUse:
    """Return what a line of messages takes, exactly up to its newest answer that counted its tokens. `system` is what
    every prompt holds beside them: the system prompt, and tools. Without such an answer the estimate is by the answers
    of the conversation's `messages`.
    """
    for at in range(len(line) - 1, -1, -1):
        usage = line[at].usage
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        if not prompt:
            continue
        left_out = usage.left_out
        sent = without_oldest(build_prompt(system, line[:at]), left_out)
        ratio = max(
            1.0, sum(len(message.content) for message in sent) / max(1, prompt - TOKENS_PER_MESSAGE * len(sent))
        )
        rest = sum(_estimate(message.content, ratio) for message in line[at + 1 :])
        return ContextUse(int(prompt + completion + rest), ratio, left_out, is_exact=at == len(line) - 1)
    answers = [message for message in messages if message.content and message.usage.completion_tokens]
    written = sum(message.usage.completion_tokens or 0 for message in answers)
    characters = sum(len(message.content) for message in answers)
    ratio = max(1.0, characters / written) if written else CHARACTERS_PER_TOKEN
    tokens = sum(_estimate(text, ratio) for text in [system, *(message.content for message in line)] if text)
    return ContextUse(tokens, ratio, 0)


def turns_to_leave_out(
    messages: Sequence[ChatMessage], *, context: int | None, max_tokens: int, ratio: float, tools: str = ""
) -> int:
    """Return how many of the oldest turns to leave out so that prompt and answer fit; the last question stays."""
    if not context:
        return 0
    room = context - min(max_tokens, int(context * SHARE_FOR_ANSWER)) - (_estimate(tools, ratio) if tools else 0)
    left_out = 0
    shorter: tuple[ChatMessage, ...] | None = tuple(messages)
    while shorter is not None and sum(_estimate(message.content, ratio) for message in shorter) > room:
        shorter = without_oldest_turn(shorter)
        left_out += shorter is not None
    return left_out


def without_oldest(messages: tuple[ChatMessage, ...], number: int) -> tuple[ChatMessage, ...]:
    """Return the messages without a number of their oldest turns, as far as there are that many."""
    for _ in range(number):
        messages = without_oldest_turn(messages) or messages
    return messages


def without_oldest_turn(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...] | None:
    """Return the messages without the oldest question and its answer; the system prompt stays. None at one question."""
    system = messages[:1] if messages and messages[0].role is Role.SYSTEM else ()
    turns = messages[len(system) :]
    next_question = next((number for number, message in enumerate(turns) if number and message.role is Role.USER), None)
    return None if next_question is None else system + turns[next_question:]


def _estimate(text: str, ratio: float) -> int:
    return TOKENS_PER_MESSAGE + int(len(text) / ratio)
