"""Conversations in their common spellings, turned into OpenAI messages."""

from __future__ import annotations

import json
import re
from typing import Any

from backend.domain.row_problem import RowProblem

Messages = list[dict[str, str]]

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "bot": "assistant",
    "model": "assistant", "ai": "assistant", "function_call": "assistant", "tool": "tool", "function": "tool", "observation": "tool",
    "ipython": "tool",
}  # fmt: skip
_ROLE_KEYS = ("role", "from", "speaker", "author")
_CONTENT_KEYS = ("content", "value", "text", "message")
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def is_transcript(value: Any) -> bool:
    """Whether a string is a dialogue in the form of Anthropic's hh-rlhf: blank line, `Human:`, blank line, `Assistant:`."""
    return isinstance(value, str) and bool(re.match(r"\s*Human: ?", value)) and "\n\nAssistant:" in value


def is_message(value: Any) -> bool:
    """Whether a value looks like one turn of a conversation."""
    return (
        isinstance(value, dict) and any(key in value for key in _ROLE_KEYS) and any(key in value for key in (*_CONTENT_KEYS, "tool_calls"))
    )


def _content(turn: dict[str, Any], *, name: str, place: int) -> str:
    value = next((turn[key] for key in _CONTENT_KEYS if turn.get(key) is not None), None)
    if value is None and turn.get("tool_calls"):
        value = json.dumps(turn["tool_calls"], ensure_ascii=False)
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        value = "".join(part["text"] for part in value)  # OpenAI's content parts
    if not isinstance(value, str):
        raise RowProblem(f"turn {place} of `{name}` has no text (found: {', '.join(map(str, turn)) or 'nothing'})")
    return value


def messages_of(value: Any, *, name: str) -> Messages:
    """Return OpenAI messages from a list of turns, one turn, a transcript, or such a list written as JSON.

    Accepts `role`/`content` and ShareGPT's `from`/`value`. Raises RowProblem naming the turn at fault.
    """
    if isinstance(value, str):
        if is_transcript(value):
            return _from_transcript(value)
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(f"`{name}` is text where a list of turns is expected") from None
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not turns:
        raise RowProblem(f"`{name}` holds no turns")
    messages: Messages = []
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise RowProblem(f"turn {place} of `{name}` is a {type(turn).__name__}, not an object with role and content")
        given = next((turn[key] for key in _ROLE_KEYS if key in turn), None)
        role = ROLES.get(str(given).lower())
        if role is None:
            raise RowProblem(
                f"turn {place} of `{name}` has the unknown role {given!r} (known: user, assistant, system, tool, human, gpt, ...)"
            )
        messages.append({"role": role, "content": _content(turn, name=name, place=place)})
    return messages


def _from_transcript(text: str) -> Messages:
    parts = _TRANSCRIPT.split(text.strip("\n"))
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[parts[i]], "content": parts[i + 1].strip()} for i in range(1, len(parts) - 1, 2)]


def conversation(value: Any, *, system: str = "") -> Messages:
    """Return messages to learn from: a user speaks before the last answer, and the assistant answers. Raises RowProblem."""
    messages = messages_of(value, name="messages")
    if system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise RowProblem(f"the conversation has no answer of the assistant (roles: {', '.join(roles)})")
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if "user" not in roles[:last]:
        raise RowProblem("the conversation has no turn of the user before the answer")
    if not any(message["content"].strip() for message in messages if message["role"] == "assistant"):
        raise RowProblem("every answer of the conversation is empty")
    if any(not message["content"].strip() for message in messages if message["role"] == "user"):
        raise RowProblem("a turn of the user is empty")
    return messages


def _side(value: Any, *, name: str) -> Messages:
    """Return one side of a preference as messages: a plain string is one answer."""
    if isinstance(value, str) and not is_transcript(value):
        if not value.strip():
            raise RowProblem(f"`{name}` is empty")
        return [{"role": "assistant", "content": value}]
    if value is None:
        raise RowProblem(f"`{name}` is empty")
    return messages_of(value, name=name)


def preference_messages(prompt: Any, *, chosen: Any, rejected: Any, system: str = "") -> dict[str, Any]:
    """Return {"prompt", "chosen", "rejected"} as messages.

    `prompt` may be text, turns, a transcript or None; the sides may be text, one turn, turns, or whole conversations whose common
    beginning is the prompt. Raises RowProblem if nothing is asked, the sides are equal, or one does not begin with an answer.
    """
    sides = (_side(chosen, name="chosen"), _side(rejected, name="rejected"))
    shared = 0
    # the last turn of each side is always the answer, even when both happen to be equal
    while shared < min(len(side) for side in sides) - 1 and sides[0][shared] == sides[1][shared]:
        shared += 1
    before = sides[0][:shared]
    if shared == 0 and prompt is not None:
        is_turns = not isinstance(prompt, str) or is_transcript(prompt)
        before = messages_of(prompt, name="prompt") if is_turns else [{"role": "user", "content": prompt}]
    if system.strip() and (not before or before[0]["role"] != "system"):
        before = [{"role": "system", "content": system}, *before]
    if not any(message["role"] == "user" and message["content"].strip() for message in before):
        raise RowProblem("nothing says what was asked: `prompt` is missing or empty, and `chosen` and `rejected` do not begin alike")
    answers = [side[shared:] for side in sides]
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if answer[0]["role"] != "assistant" or not answer[0]["content"].strip():
            raise RowProblem(f"`{name}` does not go on with an answer of the assistant")
    if answers[0] == answers[1]:
        raise RowProblem("`chosen` and `rejected` are the same")
    return {"prompt": before, "chosen": answers[0], "rejected": answers[1]}
