"""Measure the form of an answer: its length and its Markdown headers, list items and bold passages.

Two answers differ in form by z = (f_a - f_b) / (f_a + f_b), between -1 and 1 and 0 if neither has any; a regression on
z tells liking for long or decorated answers from liking for a contestant. Source: Li, Angelopoulos and Chiang (2024),
lmsys.org "Does style matter?".
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEATURES = ("length", "headers", "lists", "bold")
"""Names of the features, in the order of `AnswerFeatures`; a file of votes has `length_a`, `length_b` and so on."""

_FENCE = re.compile(r"^(?:```|~~~).*?(?:^(?:```|~~~)\s*$|\Z)", flags=re.MULTILINE | re.DOTALL)
_HEADER = re.compile(r"^ {0,3}#{1,6} ", flags=re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)]) ", flags=re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


class AnswerFeatures(NamedTuple):
    """Form of one answer. `length` in any unit, the same for both answers: characters, words or tokens."""

    length: float
    headers: float = 0.0
    lists: float = 0.0
    bold: float = 0.0


def measure_answer(text: str) -> AnswerFeatures:
    """Count characters (without outer white space), Markdown headers, list items and bold passages; code blocks count
    as length alone.

    Characters and not tokens: contestants may have different tokenizers.
    """
    prose = _FENCE.sub("", text)
    return AnswerFeatures(
        len(text.strip()), len(_HEADER.findall(prose)), len(_ITEM.findall(prose)), len(_BOLD.findall(prose))
    )


def relative_difference(side_a: NDArray[np.float64], side_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (a - b) / (a + b) by element: 0 where both are 0, NaN where one is unknown."""
    total = side_a + side_b
    return np.divide(side_a - side_b, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)
