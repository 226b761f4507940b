"""Build benchmark rows, with choices or accepted answers, from their common spellings."""

from __future__ import annotations

import re
from typing import Any

from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.values import label_text, text_of

_FINAL_ANSWER = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)  # GSM8K's mark of the result after its reasoning


def build_benchmark(values: dict[str, Any]) -> dict[str, Any]:
    """Return the canonical row of a question from its fields. Raises RowProblem naming the field at fault."""
    question = text_of(values.get("question"), name="question", may_be_empty="correct" in values)
    context = text_of(values.get("context"), name="context", may_be_empty=True)
    question = f"{context}\n{question}" if context.strip() and question else (question or context)
    if "correct" in values:
        return _choose_place(question, correct=label_text(values["correct"], name="correct"), incorrect=values["incorrect"])
    if "choices" not in values:
        answers = [label_text(answer, name="answers") for answer in values["answers"]]
        final = _FINAL_ANSWER.search(answers[-1]) if answers else None
        return {"question": question, "answers": [final.group(1)] if final else _distinct(answers)}
    # a table of questions with different numbers of choices leaves cells empty at the end
    raw = list(values["choices"])
    while raw and raw[-1] in (None, ""):
        raw.pop()
    choices = [label_text(choice, name="choices") for choice in raw]
    if len(choices) < 2:
        raise RowProblem(f"`choices` holds {len(choices)} choice; at least 2 are needed")
    answer = values["answer_from_1"] if "answer_from_1" in values else values["answer"]
    return {
        "question": question,
        "choices": choices,
        "answer": _answer_index(answer, choices=choices, first=1 if "answer_from_1" in values else 0, labels=values.get("labels") or []),
    }


def _distinct(values: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    if not distinct:
        raise RowProblem("`answers` is empty")
    return distinct


def _choose_place(question: str, *, correct: str, incorrect: list[Any]) -> dict[str, Any]:
    """Insert the right choice among the wrong ones, at a position that depends only on the text."""
    wrong = [choice for choice in _distinct([label_text(value, name="incorrect") for value in incorrect]) if choice != correct]
    if not wrong:
        raise RowProblem("`incorrect` holds nothing that differs from `correct`")
    place = sum(f"{question}{correct}".encode("utf-8", "replace")) % (len(wrong) + 1)
    return {"question": question, "choices": [*wrong[:place], correct, *wrong[place:]], "answer": place}


def _answer_index(answer: Any, *, choices: list[str], first: int, labels: list[str]) -> int:
    """Find the right choice from what the row calls its choices, from a number, a letter or the choice's own text."""
    text = str(answer).strip()
    if isinstance(answer, bool) or answer is None or isinstance(answer, dict | list) or not text:
        raise RowProblem(f"`answer` holds {str(answer)[:40]!r}; expected a number, a letter or the text of a choice")
    if len(set(labels)) == len(choices) == len(labels) and text in labels:  # ARC counts some questions 1 to 4, and letters the others
        return labels.index(text)
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
