"""Read how a file names the right choice: by index from 0 or from 1, by letter, or by text. All rows decide."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from backend.domain.data.rows.problem import RowProblem
from backend.errors import InvalidInput

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
