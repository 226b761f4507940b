"""Message content as typed parts (OpenAI, Anthropic, Hugging Face): text, reasoning, tool calls and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.problem import RowProblem, kind_of_value
from backend.domain.wording import plural

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


def is_parts(value: Any) -> bool:
    """Return whether a value is content in typed parts rather than a list of turns."""
    parts = value if isinstance(value, list) else [value]
    typed = [
        isinstance(part, dict) and isinstance(part.get("type"), str) and "role" not in part
        for part in parts
        if part is not None
    ]
    return bool(typed) and all(typed)


def read_content(value: Any, *, what: str) -> Content:
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
        return read_content(value, what=where).text
    return "" if value is None else _part_text({"text": value}, "text", where=where)
