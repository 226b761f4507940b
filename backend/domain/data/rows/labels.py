"""Read labels of one answer (good or bad) and of two (first or second). Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from backend.domain.data.rows.problem import RowProblem

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
