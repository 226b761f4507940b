"""Read cells of foreign rows: as text, list or answer, as the label of one answer (good or bad) or of two (first or
second), as the right choice: by index from 0 or from 1, by letter, or by text, which all rows decide. Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

from backend.domain.data.rows.problem import RowProblem, kind_of_value
from backend.errors import InvalidInput


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


GOOD = frozenset(
    (
        "true",
        "yes",
        "y",
        "1",
        "1.0",
        "+1",
        "up",
        "thumbs_up",
        "thumbsup",
        "good",
        "positive",
        "like",
        "liked",
        "desirable",
        "chosen",
        "accept",
        "accepted",
        "upvote",
        "👍",
        ":+1:",
        "helpful",
    )
)
BAD = frozenset(
    (
        "false",
        "no",
        "n",
        "0",
        "0.0",
        "-1",
        "-1.0",
        "down",
        "thumbs_down",
        "thumbsdown",
        "bad",
        "negative",
        "dislike",
        "disliked",
        "undesirable",
        "rejected",
        "reject",
        "downvote",
        "👎",
        ":-1:",
        "unhelpful",
    )
)
TIES = frozenset(
    ("tie", "tie (bothbad)", "tie_bothbad", "both", "both_bad", "neither", "none", "equal", "same", "draw", "")
)
FIRST = frozenset(("left", "first", "a", "model_a", "model_1", "x", "model_x"))
SECOND = frozenset(("right", "second", "b", "model_b", "model_2", "y", "model_y"))
Side = Literal["first", "second"]


def _word(value: Any) -> str:
    return re.sub(r"[\s-]+(?=[a-z])", "_", str(value).strip().lower())


def read_goodness(value: Any) -> bool | None:
    """Return True for a good label, False for a bad one, None for neither."""
    word = _word(value)
    return True if word in GOOD else False if word in BAD else None


def require_goodness(value: Any) -> bool:
    """Return a label as a bool. Raises RowProblem, naming the value, for anything else than good or bad."""
    label = read_goodness(value)
    if label is None:
        shown = "nothing" if value is None else repr(value)[:40]
        raise RowProblem(
            f"`label` holds {shown}, which is neither good nor bad (expected true or false, 1 or 0, up or down, ...)"
        )
    return label


def side_of(value: Any, *, columns: tuple[str, str]) -> Side | None:
    """Return the preferred one of two answers; None for a tie or an unknown verdict.

    `columns` are the names of the two answers' columns: `response1` against `response2` makes `1` mean the first.
    """
    word = _word(value)
    ends = [re.split(r"[_\s-]", column.strip().lower())[-1] for column in columns]
    ends = [re.sub(r"^[a-z]{2,}(?=\d+$)", "", end) for end in ends]  # response1 ends in 1
    number = re.sub(r"\.0$", "", word)
    for side, column, end in (("first", columns[0], ends[0]), ("second", columns[1], ends[1])):
        if word == column.strip().lower() or number == end or word.endswith(f"_{end}"):
            return side  # type: ignore[return-value]
    if word in FIRST:
        return "first"
    return "second" if word in SECOND else None


def read_winner(values: Sequence[Any], *, columns: tuple[str, str]) -> Side:
    """Return the side that most verdicts prefer. Raises RowProblem if they prefer none."""
    present = [value for value in values if value is not None]
    counts = Counter(side for value in present if (side := side_of(value, columns=columns)))
    if counts["first"] == counts["second"]:
        shown = ", ".join(repr(value)[:20] for value in present[:5]) or "nothing"
        words = {_word(value) for value in present}
        known = bool(words & TIES) or bool(+counts) or words <= {"0", "3"}
        why = "no answer is preferred" if known else f"expected {columns[0]}, {columns[1]}, a, b, left, right, ..."
        raise RowProblem(f"`winner` holds {shown}: {why}")
    return "first" if counts["first"] > counts["second"] else "second"


_NUMBER = re.compile(r"(\d{1,4})(?:\.0)?")
_RULES: dict[str, str | int] = {"answer_text": "text", "answer_from_0": 0, "answer_from_1": 1}


def answer_index(answer: Any, *, choices: Sequence[str], way: str, labels: Sequence[str]) -> int:
    """Return the index of the right choice. `labels` are what the row calls its choices. Raises RowProblem."""
    text = str(answer).strip()
    if isinstance(answer, bool) or answer is None or isinstance(answer, dict | list) or not text:
        raise RowProblem(f"`answer` holds {str(answer)[:40]!r}; expected a number, a letter or the text of a choice")
    # ARC counts some questions 1 to 4, and letters the others
    if len(set(labels)) == len(choices) == len(labels) and text in labels:
        return labels.index(text)
    rules = {"answer_text": ("text",), "answer_from_0": (0, "text", "letter"), "answer_from_1": (1, "text", "letter")}
    for rule in rules.get(way, ("text", 0, "letter")):
        index = _by_rule(text, rule, choices)
        if index is not None:
            return index
    raise RowProblem(f"`answer` is {text[:40]!r}, which is none of the {len(choices)} choices")


def _by_rule(text: str, rule: str | int, choices: Sequence[str]) -> int | None:
    if isinstance(rule, int):
        number = _NUMBER.fullmatch(text)
        index = int(number[1]) - rule if number else -1
        return index if 0 <= index < len(choices) else None
    if rule == "text":
        stripped = [choice.strip() for choice in choices]
        return stripped.index(text) if text in stripped else None
    letter = re.fullmatch(r"\(?([A-Za-z])\)?\.?", text)
    index = ord(letter[1].upper()) - ord("A") if letter else -1
    return index if 0 <= index < len(choices) else None


class AnswerTally:
    """Counts, over the rows of a file whose answer is a number, the rows that each way of reading it fails."""

    def __init__(self) -> None:
        self._rows = 0
        self._failed: Counter[str] = Counter(dict.fromkeys(_RULES, 0))
        self._seen: set[str] = set()
        self._unlike: set[frozenset[str]] = set()  # pairs of ways that give some row different golds

    def add(self, answer: Any, *, choices: Sequence[str], labels: Sequence[str] = ()) -> None:
        """Count a row; one with labels of its own, or with a letter or a text, tells nothing about numbers."""
        text = str(answer).strip()
        if isinstance(answer, bool) or not _NUMBER.fullmatch(text) or (labels and text in labels):
            return
        self._rows += 1
        self._seen.add(text)
        golds = {way: _by_rule(text, rule, choices) for way, rule in _RULES.items()}
        self._failed.update(way for way, gold in golds.items() if gold is None)
        self._unlike.update(frozenset(pair) for pair in combinations(golds, 2) if golds[pair[0]] != golds[pair[1]])

    def settle(self, column: str) -> str:
        """Return the field that a column of answers is: the way that fails the fewest rows.

        Raises InvalidInput where two ways fit equally well and give some row different golds: indices from 0 and from
        1, or an index and a text where the choices are numbers themselves.
        """
        if not self._rows:
            return "answer"
        fewest = min(self._failed.values())
        fitting = [way for way in _RULES if self._failed[way] == fewest]
        if not any(frozenset(pair) in self._unlike for pair in combinations(fitting, 2)):
            return fitting[0]
        shown = ", ".join(sorted(self._seen)[:6])
        counted = "may count the choices from 0 or from 1: neither 0 nor the last number occurs"
        written = (
            f"may be the text of a choice or count the choices from {'0' if 'answer_from_0' in fitting else '1'}: both"
            " fit every row"
        )
        raise InvalidInput(
            f"The answers in `{column}` ({shown}) {written if 'answer_text' in fitting else counted}.",
            remedy=(
                f"Say which: map `{column}` to answer_from_0 or to answer_from_1 (or to answer_text, if it holds the"
                " choice's text)."
            ),
            field="mapping",
        )


def answer_column(mapping: Mapping[str, str]) -> str | None:
    """Return the column of the right choice whose reading is not settled yet, None if there is none."""
    return next((column for column, field in mapping.items() if field == "answer"), None)
