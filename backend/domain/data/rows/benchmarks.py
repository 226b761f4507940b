"""Build benchmark rows, with choices or accepted answers, from their common spellings."""

from __future__ import annotations

import re
from typing import Any

from backend.domain.data.kinds import ANSWER_FIELDS
from backend.domain.data.rows.gold_answers import answer_index
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.values import label_text, read_text_value
from backend.domain.json_values import Row

_FINAL_ANSWER = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)  # GSM8K's mark of the result after its reasoning


def build_benchmark(values: Row) -> Row:
    """Return the canonical row of a question from its fields. Raises RowProblem naming the field at fault."""
    question = read_text_value(values.get("question"), name="question", may_be_empty="correct" in values)
    context = read_text_value(values.get("context"), name="context", may_be_empty=True)
    question = f"{context}\n{question}" if context.strip() and question else (question or context)
    if "correct" in values:
        return _insert_correct(
            question, correct=label_text(values["correct"], name="correct"), incorrect=values["incorrect"]
        )
    if "choices" not in values:
        answers = [label_text(answer, name="answers") for answer in values["answers"]]
        final = _FINAL_ANSWER.search(answers[-1]) if answers else None
        return {"question": question, "answers": [final.group(1)] if final else _distinct(answers)}
    choices = read_choices(values)
    way = next(field for field in ANSWER_FIELDS if field in values)
    labels = values.get("labels") or []
    return {
        "question": question,
        "choices": choices,
        "answer": answer_index(values[way], choices=choices, way=way, labels=labels),
    }


def read_choices(values: Row) -> list[str]:
    """Return the choices of a row. Raises RowProblem if there are fewer than two."""
    # a table of questions with different numbers of choices leaves cells empty at the end
    raw = list(values["choices"])
    while raw and raw[-1] in (None, ""):
        raw.pop()
    choices = [label_text(choice, name="choices") for choice in raw]
    if len(choices) < 2:
        raise RowProblem(f"`choices` holds {len(choices)} choice; at least 2 are needed")
    return choices


def _distinct(values: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    if not distinct:
        raise RowProblem("`answers` is empty")
    return distinct


def _insert_correct(question: str, *, correct: str, incorrect: list[Any]) -> dict[str, object]:
    """Insert the right choice among the wrong ones, at a position that depends only on the text."""
    wrong = [
        choice
        for choice in _distinct([label_text(value, name="incorrect") for value in incorrect])
        if choice != correct
    ]
    if not wrong:
        raise RowProblem("`incorrect` holds nothing that differs from `correct`")
    place = sum(f"{question}{correct}".encode("utf-8", "replace")) % (len(wrong) + 1)
    return {"question": question, "choices": [*wrong[:place], correct, *wrong[place:]], "answer": place}
