"""Convert conversations in common formats to OpenAI messages.

A message has a `role` and a `content`; an assistant's may have `tool_calls` and a tool's `tool_call_id` and `name`
(their form is in backend.domain.data.rows.tool_calls). Content may be a list of typed parts (OpenAI, Anthropic,
Hugging Face): text, reasoning, tool calls and results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.problem import RowProblem, kind_of_value
from backend.domain.data.rows.tool_calls import arguments_of, tool_calls_of, tools_of
from backend.domain.json_values import JsonObject, Row
from backend.domain.wording import plural

Messages = list[JsonObject]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "instruction": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
ROLE_KEYS = ("role", "from", "speaker", "author")
CONTENT_KEYS = ("content", "value", "text", "message")
CALL_KEYS = ("tool_calls", "function_call")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def is_transcript(value: Any) -> bool:
    """Return whether a string is a dialogue in the form of Anthropic's hh-rlhf: blank line, `Human:`, blank line,
    `Assistant:`.
    """
    return isinstance(value, str) and bool(re.match(r"\s*Human: ?", value)) and "\n\nAssistant:" in value


def is_message(value: Any) -> bool:
    """Return whether a value looks like one turn of a conversation."""
    return (
        isinstance(value, dict)
        and any(key in value for key in ROLE_KEYS)
        and any(key in value for key in (*CONTENT_KEYS, *CALL_KEYS))
    )


def _content(turn: Mapping[str, object], *, name: str, place: int, may_lack: bool = False) -> str | Content:
    """Return the text of a turn, or its content where that is in parts. Raises RowProblem where it has neither."""
    value = next((turn[key] for key in CONTENT_KEYS if turn.get(key) is not None), None)
    if isinstance(value, str):
        return value
    turn_label = f"turn {place} of `{name}`"
    if isinstance(value, list) or _is_parts(value):
        return _read_content(value, what=turn_label)
    if isinstance(value, dict):
        raise RowProblem(f"{turn_label} holds an object without a type where text is expected")
    if value is None and may_lack:
        return ""
    raise RowProblem(f"{turn_label} has no text (found: {', '.join(map(str, turn)) or 'nothing'})")


def _messages(turn: JsonObject, *, name: str, place: int) -> Messages:
    """Return one turn as OpenAI messages: one, after those of the tool results among its parts."""
    stated = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)
    role = ROLES.get(str(stated).lower())
    if role is None:
        raise RowProblem(
            f"turn {place} of `{name}` has the unknown role {stated!r} (known: user, assistant, system, tool, ...)"
        )
    calls = next((turn[key] for key in CALL_KEYS if turn.get(key)), None) if role == "assistant" else None
    is_call = calls is None and str(stated).lower() == "function_call"  # ShareGPT: the turn's text is the call
    content = _content(turn, name=name, place=place, may_lack=calls is not None)
    reasoning = next((turn[key] for key in REASONING_KEYS if isinstance(turn.get(key), str)), "")
    results: Messages = []
    if isinstance(content, Content):
        calls = calls or content.calls or None
        reasoning = content.reasoning or reasoning
        results = [
            {"role": "tool", "content": text, **({"tool_call_id": id_} if id_ else {})} for id_, text in content.results
        ]
        content = content.text
    if is_call:
        return [{"role": role, "content": "", "tool_calls": tool_calls_of(content, name=name, place=place)}]
    message: JsonObject = {"role": role, "content": content}
    if role == "assistant":
        if reasoning and reasoning.strip():
            message["content"] = with_reasoning(reasoning, content)
        if calls is not None:
            message["tool_calls"] = tool_calls_of(calls, name=name, place=place)
    elif calls or (reasoning and reasoning.strip()):
        surplus = "a tool call" if calls else "reasoning"
        raise RowProblem(
            f"turn {place} of `{name}` has the role {role} and holds {surplus}, which belongs to the assistant alone"
        )
    elif role == "tool":
        message |= {key: turn[key] for key in ("tool_call_id", "name") if isinstance(turn.get(key), str) and turn[key]}
    return [*results, message] if not results or content.strip() else results


def with_reasoning(reasoning: str, answer: str) -> str:
    """Return an answer preceded by its reasoning, as reasoning models write it: `<think>`, the reasoning, `</think>`.

    Templates that handle reasoning separate it at these tags; others keep it, so it is trained on under any template.
    """
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{answer}"


def messages_of(value: Any, *, name: str) -> Messages:
    """Return OpenAI messages from a list of turns, one turn, a transcript, or such a list written as JSON.

    Accepts `role`/`content` and ShareGPT's `from`/`value`, whose `function_call` and `observation` turns become calls
    and results of tools. Raises RowProblem naming the turn at fault.
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
            raise RowProblem(f"turn {place} of `{name}` is {kind_of_value(turn)}, not an object with role and content")
        for message in _messages(turn, name=name, place=place):
            if "tool_calls" in message and not message["content"] and messages and _is_plain_answer(messages[-1]):
                # ShareGPT separates the text from the call; OpenAI does not
                messages[-1] = {**message, "content": messages[-1]["content"]}
            else:
                messages.append(message)
    return messages


def _is_plain_answer(message: Mapping[str, object]) -> bool:
    return message["role"] == "assistant" and "tool_calls" not in message


def _from_transcript(text: str) -> Messages:
    parts = _TRANSCRIPT.split(text.strip("\n"))
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[parts[i]], "content": parts[i + 1].strip()} for i in range(1, len(parts) - 1, 2)]


def conversation(value: Any, *, system: str = "") -> Messages:
    """Return the messages of a training conversation: a user's turn comes before the last answer. Raises RowProblem."""
    messages = messages_of(value, name="messages")
    if system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise RowProblem(f"the conversation has no answer of the assistant (roles: {', '.join(roles)})")
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if "user" not in roles[:last]:
        raise RowProblem("the conversation has no turn of the user before the answer")
    if not any(
        message["content"].strip() or message.get("tool_calls")
        for message in messages
        if message["role"] == "assistant"
    ):
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
    if _is_parts(value):
        value = {"role": "assistant", "content": value}
    return messages_of(value, name=name)


def _prompt_messages(prompt: Any) -> Messages:
    """Return a prompt's messages: turns, a transcript, OpenAI's `{"messages": [...]}`, or plain text of the user."""
    if isinstance(prompt, dict) and "messages" in prompt:
        prompt = prompt["messages"]
    if _is_parts(prompt):
        prompt = {"role": "user", "content": prompt}
    is_turns = not isinstance(prompt, str) or is_transcript(prompt)
    return messages_of(prompt, name="prompt") if is_turns else [{"role": "user", "content": prompt}]


def preference_messages(prompt: Any, *, chosen: Any, rejected: Any, system: str = "") -> dict[str, object]:
    """Return {"prompt", "chosen", "rejected"} as messages.

    `prompt` may be text, turns, a transcript or None; the sides may be text, one turn, turns, or whole conversations
    whose common beginning is the prompt. Raises RowProblem if the prompt is missing, the sides are equal, or one does
    not begin with an answer.
    """
    sides = (_side(chosen, name="chosen"), _side(rejected, name="rejected"))
    shared = 0
    # the last turn of each side is always the answer, even when both happen to be equal
    while shared < min(len(side) for side in sides) - 1 and sides[0][shared] == sides[1][shared]:
        shared += 1
    before = sides[0][:shared]
    if shared == 0 and prompt is not None:
        before = _prompt_messages(prompt)
    if system.strip() and (not before or before[0]["role"] != "system"):
        before = [{"role": "system", "content": system}, *before]
    if not any(message["role"] == "user" and message["content"].strip() for message in before):
        raise RowProblem(
            "there is no prompt: `prompt` is missing or empty, and `chosen` and `rejected` do not begin alike"
        )
    answers = [side[shared:] for side in sides]
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if answer[0]["role"] != "assistant" or not (answer[0]["content"].strip() or answer[0].get("tool_calls")):
            raise RowProblem(f"`{name}` does not continue with an answer of the assistant")
    if answers[0] == answers[1]:
        raise RowProblem("`chosen` and `rejected` are the same")
    return {"prompt": before, "chosen": answers[0], "rejected": answers[1]}


def answered_messages(prompt: Any, *, completion: Any, system: str = "") -> Row:
    """Return {"prompt", "completion"} as messages: one answer and the messages before it.

    `completion` may be text or turns; without a prompt it is a whole conversation, whose last answer counts. Raises
    RowProblem.
    """
    if prompt is None:
        messages = conversation(completion, system=system)
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        return {"prompt": messages[:last], "completion": messages[last : last + 1]}
    before, answer = _prompt_messages(prompt), _side(completion, name="completion")
    if len(answer) > len(before) and answer[: len(before)] == before:
        answer = answer[len(before) :]
    messages = conversation([*before, *answer], system=system)
    return {"prompt": messages[: len(messages) - len(answer)], "completion": answer}


@dataclass(frozen=True)
class TemplateInput:
    """Input of a chat template: messages, and the tools that the network may call (None for none)."""

    messages: Messages
    tools: list[JsonObject] | None = None


def as_conversation(row: Row) -> TemplateInput | None:
    """Return a chat, instruction, preference (its chosen side) or kto row as a conversation; None for another kind."""
    tools = tools_of(row)
    if isinstance(row.get("messages"), list):
        return TemplateInput(row["messages"], tools)
    prompt, answer = row.get("prompt"), row.get("chosen", row.get("completion"))
    if answer is None or prompt is None:
        return None
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    after = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    return TemplateInput([*before, *after], tools)


def template_messages(messages: Messages) -> Messages:
    """Return messages as chat templates expect them: fields without a value left out, arguments of calls as objects."""
    result = []
    for message in messages:
        clean = {key: value for key, value in message.items() if value is not None}
        if clean.get("tool_calls"):
            clean["tool_calls"] = [
                {**call, "function": {"name": call["function"]["name"], "arguments": arguments_of(call)}}
                for call in clean["tool_calls"]
            ]
        else:
            clean.pop("tool_calls", None)
        clean.setdefault("content", "")
        result.append(clean)
    return result


TEXT_TYPES = frozenset({"text", "input_text", "output_text", "summary_text", "refusal", "markdown"})
REASONING_TYPES = frozenset(
    {"reasoning", "reasoning_text", "reasoning_content", "thinking", "think", "thought", "thoughts"}
)
CALL_TYPES = frozenset({"tool_use", "tool_call", "function_call"})
RESULT_TYPES = frozenset({"tool_result"})
MEDIA_TYPES = {
    "image": "an image",
    "image_url": "an image",
    "input_image": "an image",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
    "video": "a video",
    "video_url": "a video",
    "file": "a file",
    "input_file": "a file",
    "document": "a file",
}
MEDIA_COLUMNS = frozenset({"image", "video", "audio"})
"""Names, in the singular, of columns of media beside the text: LLaMA-Factory has `images`, `videos` and `audios`."""
TEXT_KEYS = ("text", "value", "content", "thinking", "reasoning", "thought", "summary", "refusal")
"""Keys of a part's text; the part's own type takes precedence."""


class Content(NamedTuple):
    """The content of one message. `calls` are as the source spells them; `results` are (id of the call, text)."""

    text: str
    reasoning: str
    calls: list[Any]
    results: list[tuple[str, str]]


def media_columns(
    rows: Iterable[Mapping[str, Any]], *, kind: DatasetKind, mapping: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the columns of images, video and audio that rows of this kind and mapping leave out."""
    if kind is DatasetKind.RECORDS:
        return ()
    columns = dict.fromkeys(str(column) for row in rows for column, value in row.items() if value)
    return tuple(name for name in columns if name not in mapping and name.lower().removesuffix("s") in MEDIA_COLUMNS)


def count_media(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, int]:
    """Count the rows with something in each of these columns."""
    counts = dict.fromkeys(columns, 0)
    for row in rows:
        for column in counts:
            counts[column] += bool(row.get(column))
    return counts


def describe_dropped(counts: Mapping[str, int]) -> str:
    """Return what a dataset leaves out of its source: `Left out: 40 rows with ...`; "" for nothing."""
    named = [f"{plural(number, 'row')} with `{column}`" for column, number in counts.items() if number]
    if not named:
        return ""
    return f"Left out: {', '.join(named)}. Datasets hold text alone; marks such as `<image>` stay in the text."


def describe_filtered(counts: Mapping[str, int]) -> str:
    """Return what filters left out, by reason: `Left out: 40 rows not in English, 2 rows like another`, or ""."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    named = [f"{plural(number, 'row')} {reason}" for reason, number in ordered]
    return f"Left out: {', '.join(named)}." if named else ""


def _is_parts(value: Any) -> bool:
    """Return whether a value is content in typed parts rather than a list of turns."""
    parts = value if isinstance(value, list) else [value]
    typed = [
        isinstance(part, dict) and isinstance(part.get("type"), str) and "role" not in part
        for part in parts
        if part is not None
    ]
    return bool(typed) and all(typed)


def _read_content(value: Any, *, what: str) -> Content:
    """Read content in parts. `what` names the message in errors.

    Raises RowProblem for images, audio and other media, for a type that is not known, and for a part without its text.
    """
    calls: list[Any] = []
    results: list[tuple[str, str]] = []
    texts: list[str] = []
    reasoning: list[str] = []
    for place, part in enumerate(value if isinstance(value, list) else [value], start=1):
        where = f"part {place} of {what}"
        type_ = _type_of(part, where=where)
        if type_ in CALL_TYPES:
            calls.append(_call(part, type_))
        elif type_ in RESULT_TYPES:
            results.append(
                (str(part.get("tool_use_id") or part.get("tool_call_id") or ""), _result_text(part, where=where))
            )
        elif type_ in REASONING_TYPES:
            reasoning.append(_part_text(part, type_, where=where))
        elif type_:
            texts.append(_part_text(part, type_, where=where))
    return Content("".join(texts), "\n\n".join(text for text in reasoning if text.strip()), calls, results)


def _type_of(part: Any, *, where: str) -> str:
    """Return the type of a part; "" for the null that a table's column puts where a list is shorter."""
    if part is None:
        return ""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, dict):
        raise RowProblem(f"{where} is {kind_of_value(part)}, not an object with a type")
    kind = part.get("type")
    type_ = kind.strip().lower() if isinstance(kind, str) else ""
    media = MEDIA_TYPES.get(type_) or next(
        (MEDIA_TYPES[key] for key in MEDIA_TYPES if not type_ and part.get(key) is not None), None
    )
    if media:
        raise RowProblem(f"{where} is {media} ({type_ or 'no type'}); datasets hold text alone")
    if not type_:
        return next((key for key in REASONING_TYPES if part.get(key) is not None), "text")
    if type_ not in TEXT_TYPES | REASONING_TYPES | CALL_TYPES | RESULT_TYPES:
        raise RowProblem(
            f"{where} has the unknown type {kind!r} (known: text, reasoning, thinking, tool_use, tool_result)"
        )
    return type_


def _part_text(part: Any, type_: str, *, where: str) -> str:
    """Return the text of a part: under its type or a usual key, as a string, a list of parts, or `{"value": ...}`."""
    if isinstance(part, str):
        return part
    value = next((part[key] for key in (type_, *TEXT_KEYS) if part.get(key) is not None), None)
    text = _flat_text(value)
    if text is None:
        keys = ", ".join(str(key) for key, filled in part.items() if filled is not None) or "nothing"
        raise RowProblem(f"{where} has no text (found: {keys})")
    return text


def _flat_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), str)), None)
    if isinstance(value, list):
        return _joined(_flat_text(part) for part in value if part is not None)
    return None


def _joined(texts: Iterable[str | None]) -> str | None:
    parts = list(texts)
    return None if any(part is None for part in parts) else "".join(part for part in parts if part is not None)


def _call(part: Mapping[str, object], type_: str) -> Any:
    """Return a call in the form that backend.domain.data.rows.tool_calls reads: Anthropic names the arguments `input`,
    LLaMA-Factory writes the whole call as JSON text, or as an object, where a text would be.
    """
    inner = part.get("function") if isinstance(part.get("function"), dict) else part
    if isinstance(inner, dict) and inner.get("name") is None:
        written = next((part[key] for key in (type_, *TEXT_KEYS) if part.get(key) is not None), None)
        if written is not None:
            return written
    assert isinstance(inner, dict)
    arguments = inner.get("arguments", inner.get("parameters", inner.get("input")))
    return {"id": part.get("id") or part.get("call_id"), "name": inner.get("name"), "arguments": arguments}


def _result_text(part: Mapping[str, object], *, where: str) -> str:
    value = part.get("content", part.get("output"))
    if isinstance(value, list):
        return _read_content(value, what=where).text
    return "" if value is None else _part_text({"text": value}, "text", where=where)
