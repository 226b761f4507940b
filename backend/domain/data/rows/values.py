"""Read single cells of foreign rows as text, list or answer."""

from __future__ import annotations

import json
from typing import Any

from backend.domain.data.rows.problem import RowProblem, kind_of_value


def listed_part(value: Any) -> list[Any] | None:
    """Return the list inside a cell of named lists, as in ARC, SQuAD and TriviaQA; None for other cells."""
    if not isinstance(value, dict):
        return None
    return next(
        (value[key] for key in ("text", "choices", "options", "aliases", "spans") if isinstance(value.get(key), list)),
        None,
    )


def choice_labels(value: Any) -> list[str]:
    """Return the labels of a cell of choices (ARC's `label`, CommonsenseQA's label of each); empty if it has none."""
    labels = value.get("label", value.get("labels")) if isinstance(value, dict) else None
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, dict) and "text" in part and "label" in part for part in value)
    ):
        labels = [part["label"] for part in value]
    return [str(label).strip() for label in labels] if isinstance(labels, list) else []


def as_list(value: Any, *, column: str) -> list[Any]:
    """Return a cell of several values as a list. Raises RowProblem if it is empty."""
    if isinstance(value, dict):  # ARC: {"text": [...], "label": [...]}
        listed = listed_part(value)
        value = list(value.values()) if listed is None else listed
    if isinstance(value, list):  # CommonsenseQA: [{"label": "A", "text": "bank"}, ...]
        return [part["text"] if isinstance(part, dict) and "text" in part else part for part in value]
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


def cell_text(value: Any) -> str:
    """Return a cell as text: a string as it is, anything else as JSON, "" if it is nested too deeply."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:  # a message tree thousands of replies deep
        return ""


def read_text_value(value: Any, *, name: str, may_be_empty: bool = False) -> str:
    """Return a text value. Raises RowProblem for numbers, lists and null."""
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str):
        shown = "nothing" if value is None else f"{kind_of_value(value)} ({cell_text(value)[:40]})"
        raise RowProblem(f"`{name}` holds {shown} where text is expected")
    if not may_be_empty and not value.strip():
        raise RowProblem(f"`{name}` is empty")
    return value


def label_text(value: Any, *, name: str) -> str:
    """Return a choice or an answer as text; here numbers are fine."""
    if isinstance(value, bool | int | float):
        return str(value)
    return read_text_value(value, name=name)
