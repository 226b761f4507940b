"""Rows of datasets: the six kinds, the one form each is stored in, and how a foreign row becomes one. Pure; reads no file.

Canonical rows
    text          {"text": str}
    instruction   {"prompt": str, "completion": str}
    chat          {"messages": [{"role": "system|user|assistant|tool", "content": str}, ...]}
    preference    {"prompt": messages, "chosen": messages, "rejected": messages}
    benchmark     {"question": str, "choices": [str], "answer": int}  or  {"question": str, "answers": [str]}
    prompts       {"prompt": str}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from backend.domain.conversations import conversation, messages_of, preference_messages
from backend.domain.row_problem import RowProblem

__all__ = [
    "FIELDS",
    "REQUIRED",
    "DatasetKind",
    "RowProblem",
    "apply_mapping",
    "canonical_json",
    "check_mapping",
    "render_preview",
    "row_text",
]


class DatasetKind(StrEnum):
    """What a dataset's rows are."""

    TEXT = "text"
    INSTRUCTION = "instruction"
    CHAT = "chat"
    PREFERENCE = "preference"
    BENCHMARK = "benchmark"
    PROMPTS = "prompts"


FIELDS: dict[DatasetKind, tuple[str, ...]] = {
    DatasetKind.TEXT: ("text",),
    DatasetKind.INSTRUCTION: ("prompt", "input", "completion", "system"),
    DatasetKind.CHAT: ("messages", "prompt", "input", "completion", "system"),
    DatasetKind.PREFERENCE: ("prompt", "input", "chosen", "rejected", "system"),
    DatasetKind.BENCHMARK: ("context", "question", "choices", "answer", "answer_from_1", "answers", "correct", "incorrect"),
    DatasetKind.PROMPTS: ("prompt", "input"),
}
"""Fields that a source column may be mapped to, per kind. Several columns may serve `choices`, `answers` and `incorrect`."""

REQUIRED: dict[DatasetKind, tuple[tuple[str, ...], ...]] = {
    DatasetKind.TEXT: (("text",),),
    DatasetKind.INSTRUCTION: (("prompt", "completion"),),
    DatasetKind.CHAT: (("messages",), ("prompt", "completion")),
    DatasetKind.PREFERENCE: (("chosen", "rejected"),),
    DatasetKind.BENCHMARK: (
        ("question", "choices", "answer"),
        ("question", "choices", "answer_from_1"),
        ("question", "answers"),
        ("correct", "incorrect"),
    ),
    DatasetKind.PROMPTS: (("prompt",),),
}
"""For each kind the sets of fields, any one of which is enough."""

_MANY = frozenset({"choices", "answers", "incorrect"})
_FINAL_ANSWER = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)  # how GSM8K marks the result below its reasoning
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_mapping(kind: DatasetKind, mapping: Mapping[str, str]) -> None:
    """Raise RowProblem unless the mapping (source column -> field) gives the kind what it needs."""
    unknown = sorted({field for field in mapping.values() if field not in FIELDS[kind]})
    if unknown:
        raise RowProblem(f"kind {kind} has no field `{unknown[0]}`; its fields are {', '.join(FIELDS[kind])}")
    given = set(mapping.values())
    if not any(given.issuperset(needed) for needed in REQUIRED[kind]):
        ways = " or ".join(" + ".join(f"`{field}`" for field in needed) for needed in REQUIRED[kind])
        raise RowProblem(f"kind {kind} needs {ways}; mapped so far: {', '.join(sorted(given)) or 'nothing'}")
    for field in given - _MANY:
        columns = [column for column, target in mapping.items() if target == field]
        if len(columns) > 1:
            raise RowProblem(f"field `{field}` is mapped from {len(columns)} columns ({', '.join(columns)}); choose one")


def _collect(row: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Return field -> value, with a list for fields that several columns may serve."""
    values: dict[str, Any] = {}
    for column, field in mapping.items():
        if column not in row:
            if field in ("input", "system", "context"):
                continue
            found = ", ".join(f"`{name}`" for name in row if name not in mapping) or "no other column"
            raise RowProblem(f"column `{column}` is missing (found: {found})")
        value = row[column]
        if field in _MANY:
            several = list(mapping.values()).count(field) > 1
            values.setdefault(field, []).extend([value] if several else _as_list(value, column=column))
        else:
            values[field] = value
    return values


def _as_list(value: Any, *, column: str) -> list[Any]:
    if isinstance(value, dict):  # ARC: {"text": [...], "label": [...]}
        value = next((value[key] for key in ("text", "choices", "options") if isinstance(value.get(key), list)), list(value.values()))
    if isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
        if isinstance(parsed, list):
            return parsed
    if isinstance(value, str) and ";" in value:  # TruthfulQA's CSV
        return [part.strip() for part in value.split(";") if part.strip()]
    if value is None or value == "":
        raise RowProblem(f"column `{column}` is empty")
    return [value]


def _text(value: Any, *, name: str, may_be_empty: bool = False) -> str:
    """Return a text value. Numbers, lists and nothing at all are problems of the row."""
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str):
        shown = "nothing" if value is None else f"a {type(value).__name__} ({str(value)[:40]})"
        raise RowProblem(f"`{name}` holds {shown} where text is expected")
    if not may_be_empty and not value.strip():
        raise RowProblem(f"`{name}` is empty")
    return value


def _label(value: Any, *, name: str) -> str:
    """Return a choice or an answer as text; here numbers are fine."""
    if isinstance(value, bool | int | float):
        return str(value)
    return _text(value, name=name)


def apply_mapping(row: Mapping[str, Any], *, kind: DatasetKind, mapping: Mapping[str, str]) -> dict[str, Any]:
    """Turn a foreign row into the canonical row of its kind.

    `mapping` goes from source column to field (see FIELDS). Raises RowProblem, whose reason names the column at fault and what was
    found instead.
    """
    values = _collect(row, mapping)
    result = _BUILDERS[kind](values)
    _check_characters(result)
    return result


def _check_characters(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise RowProblem("the text contains a NUL character")
        if _SURROGATE.search(value):
            raise RowProblem("the text contains half a character (a lone surrogate), which no file can hold as UTF-8")
    elif isinstance(value, dict):
        for part in value.values():
            _check_characters(part)
    elif isinstance(value, list):
        for part in value:
            _check_characters(part)


def _build_text(values: dict[str, Any]) -> dict[str, Any]:
    return {"text": _text(values["text"], name="text")}


def _build_prompt(values: dict[str, Any]) -> dict[str, Any]:
    value = values["prompt"]
    if isinstance(value, list) and value:  # MT-bench turns, or messages
        value = value[0] if isinstance(value[0], str) else messages_of(value, name="prompt")[-1]["content"]
    return {"prompt": _with_input(_text(value, name="prompt"), values)}


def _with_input(prompt: str, values: dict[str, Any]) -> str:
    """Join Alpaca's `instruction` and `input`."""
    extra = _text(values.get("input"), name="input", may_be_empty=True)
    return f"{prompt}\n\n{extra}" if extra.strip() else prompt


def _build_instruction(values: dict[str, Any]) -> dict[str, Any]:
    prompt = _with_input(_text(values["prompt"], name="prompt"), values)
    system = _text(values.get("system"), name="system", may_be_empty=True)
    return {
        "prompt": f"{system}\n\n{prompt}" if system.strip() else prompt,
        "completion": _text(values["completion"], name="completion"),
    }


def _build_chat(values: dict[str, Any]) -> dict[str, Any]:
    system = _text(values.get("system"), name="system", may_be_empty=True)
    if "messages" in values:
        messages = conversation(values["messages"], system=system)
    else:
        prompt = _with_input(_text(values["prompt"], name="prompt"), values)
        pair = [{"role": "user", "content": prompt}, {"role": "assistant", "content": _text(values["completion"], name="completion")}]
        messages = conversation(pair, system=system)
    return {"messages": messages}


def _build_preference(values: dict[str, Any]) -> dict[str, Any]:
    prompt = values.get("prompt")
    if isinstance(prompt, str):
        prompt = _with_input(prompt, values)
    system = _text(values.get("system"), name="system", may_be_empty=True)
    return preference_messages(prompt, chosen=values["chosen"], rejected=values["rejected"], system=system)


def _build_benchmark(values: dict[str, Any]) -> dict[str, Any]:
    question = _text(values.get("question"), name="question", may_be_empty="correct" in values)
    context = _text(values.get("context"), name="context", may_be_empty=True)
    question = f"{context}\n{question}" if context.strip() and question else (question or context)
    if "correct" in values:
        return _choose_place(question, correct=_label(values["correct"], name="correct"), incorrect=values["incorrect"])
    if "choices" not in values:
        answers = [_label(answer, name="answers") for answer in values["answers"]]
        final = _FINAL_ANSWER.search(answers[-1]) if answers else None
        return {"question": question, "answers": [final.group(1)] if final else _distinct(answers)}
    # a table of questions with different numbers of choices leaves cells empty at the end
    raw = list(values["choices"])
    while raw and raw[-1] in (None, ""):
        raw.pop()
    choices = [_label(choice, name="choices") for choice in raw]
    if len(choices) < 2:
        raise RowProblem(f"`choices` holds {len(choices)} choice; at least 2 are needed")
    answer = values["answer_from_1"] if "answer_from_1" in values else values["answer"]
    return {
        "question": question,
        "choices": choices,
        "answer": _answer_index(answer, choices=choices, first=1 if "answer_from_1" in values else 0),
    }


def _distinct(values: list[str]) -> list[str]:
    kept = list(dict.fromkeys(values))
    if not kept:
        raise RowProblem("`answers` is empty")
    return kept


def _choose_place(question: str, *, correct: str, incorrect: list[Any]) -> dict[str, Any]:
    """Put the right choice among the wrong ones, at a place that depends on the text alone."""
    wrong = [choice for choice in _distinct([_label(value, name="incorrect") for value in incorrect]) if choice != correct]
    if not wrong:
        raise RowProblem("`incorrect` holds nothing that differs from `correct`")
    place = sum(f"{question}{correct}".encode("utf-8", "replace")) % (len(wrong) + 1)
    return {"question": question, "choices": [*wrong[:place], correct, *wrong[place:]], "answer": place}


def _answer_index(answer: Any, *, choices: list[str], first: int) -> int:
    """Find the right choice from a number, a letter or the choice's own text."""
    text = str(answer).strip()
    if isinstance(answer, bool) or answer is None or isinstance(answer, dict | list) or not text:
        raise RowProblem(f"`answer` holds {str(answer)[:40]!r}; expected a number, a letter or the text of a choice")
    number = re.fullmatch(r"(\d{1,4})(?:\.0)?", text)
    if number and 0 <= int(number.group(1)) - first < len(choices):
        return int(number.group(1)) - first
    stripped = [choice.strip() for choice in choices]
    if text in stripped:
        return stripped.index(text)
    letter = re.fullmatch(r"\(?([A-Za-z])\)?\.?", text)
    if letter and ord(letter.group(1).upper()) - ord("A") < len(choices):
        return ord(letter.group(1).upper()) - ord("A")
    raise RowProblem(f"`answer` is {text[:40]!r}, which is none of the {len(choices)} choices")


_BUILDERS = {
    DatasetKind.TEXT: _build_text,
    DatasetKind.INSTRUCTION: _build_instruction,
    DatasetKind.CHAT: _build_chat,
    DatasetKind.PREFERENCE: _build_preference,
    DatasetKind.BENCHMARK: _build_benchmark,
    DatasetKind.PROMPTS: _build_prompt,
}


def canonical_json(row: Mapping[str, Any]) -> str:
    """Write a canonical row as the one JSON text that hashes and splits are computed from."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def row_text(row: Mapping[str, Any]) -> str:
    """Return all text of a canonical row, in reading order, without labels."""
    parts: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, list):
            for part in value:
                visit(part["content"] if isinstance(part, dict) else part)

    for value in row.values():
        visit(value)
    return "\n".join(parts)


def render_preview(row: Mapping[str, Any]) -> str:
    """Show a canonical row as plain text, a line per part."""
    if "messages" in row:
        return "\n".join(f"{message['role']}: {message['content']}" for message in row["messages"])
    if "chosen" in row:
        lines = [f"{message['role']}: {message['content']}" for message in row["prompt"]]
        for side in ("chosen", "rejected"):
            lines += [f"[{side}] {message['role']}: {message['content']}" for message in row[side]]
        return "\n".join(lines)
    if "choices" in row:
        marks = [f"{'*' if i == row['answer'] else ' '} {chr(65 + i % 26)}. {choice}" for i, choice in enumerate(row["choices"])]
        return "\n".join([row["question"], *marks])
    if "answers" in row:
        return "\n".join([row["question"], *(f"= {answer}" for answer in row["answers"])])
    if "completion" in row:
        return f"prompt: {row['prompt']}\ncompletion: {row['completion']}"
    return str(row.get("text", row.get("prompt", "")))
