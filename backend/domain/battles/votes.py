"""Vote records for the statistics: who preferred which side of which battle, and the form of both answers.

A correction of a vote supersedes the first one before it comes here: each record counts once.

The form of an answer is its length and its Markdown headers, list items and bold passages.
Two answers differ in form by z = (f_a - f_b) / (f_a + f_b), between -1 and 1 and 0 if neither has any; a regression on
z tells liking for long or decorated answers from liking for a contestant. Source: Li, Angelopoulos and Chiang (2024),
lmsys.org "Does style matter?".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.errors import InvalidInput

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


FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Label(StrEnum):
    """Label of a vote. `BOTH_BAD` is half a win in a rating and counted apart, since it rates absolute quality."""

    A = "A"
    B = "B"
    TIE = "TIE"
    BOTH_BAD = "BOTH_BAD"


LABELS = tuple(Label)
POINTS_OF_A = {Label.A: 1.0, Label.B: 0.0, Label.TIE: 0.5, Label.BOTH_BAD: 0.5}
POINTS = np.array([POINTS_OF_A[label] for label in LABELS])
LABEL_REMEDY = "Use A, B, TIE or BOTH_BAD."
UNKNOWN = AnswerFeatures(np.nan, np.nan, np.nan, np.nan)


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One vote: contestant `a` was shown as side a, `b` as side b; `winner` is A, B, TIE or BOTH_BAD.

    `turn` tells the turns of one prompt apart, where raters vote on each. `identical` marks a TIE that no one cast: two
    equal answers. `category` is the prompt's; `probability` the chance with which this battle was drawn, in (0, 1];
    `form_a` and `form_b` the form of the answers, for control of length and style.
    """

    prompt: str
    rater: str
    a: str
    b: str
    winner: str
    turn: str = ""
    identical: bool = False
    category: str = ""
    probability: float | None = None
    form_a: AnswerFeatures | None = None
    form_b: AnswerFeatures | None = None


@dataclass(frozen=True, slots=True)
class VoteColumns:
    """Votes as arrays of one entry per vote: codes of `contestants` (sorted by name), LABELS, `prompts` and `raters`
    (by first appearance).

    `category` codes `categories` (sorted); `probability` is NaN where unknown; `forms` has a row per vote and a column
    per feature: the relative difference of the two answers, NaN where unknown. `turn` numbers the turns of a prompt;
    `identical` marks ties that no one cast. Each of the five is None if no vote has it.
    """

    contestants: tuple[str, ...]
    prompts: tuple[str, ...]
    raters: tuple[str, ...]
    a: IntArray
    b: IntArray
    label: IntArray
    prompt: IntArray
    rater: IntArray
    categories: tuple[str, ...] = ()
    category: IntArray | None = None
    probability: FloatArray | None = None
    forms: FloatArray | None = None
    turn: IntArray | None = None
    identical: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.a)

    @property
    def num_prompts(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @property
    def num_raters(self) -> int:
        """Number of raters."""
        return len(self.raters)

    @property
    def is_cast(self) -> NDArray[np.bool_]:
        """Mask of the votes that people cast: all but ties of identical answers."""
        return np.ones(len(self), dtype=np.bool_) if self.identical is None else ~self.identical

    def points_of(self, votes: IntArray) -> FloatArray:
        """Points of side a in some of the votes."""
        points: FloatArray = POINTS[self.label[votes]]
        return points

    def select(self, votes: NDArray[np.bool_] | IntArray) -> VoteColumns:
        """Return some of the votes; contestants, prompts and raters without a vote among them disappear."""
        a, b = self.a[votes], self.b[votes]
        contestants, sides = _used(self.contestants, np.concatenate([a, b]))
        prompts, prompt = _used(self.prompts, self.prompt[votes])
        raters, rater = _used(self.raters, self.rater[votes])
        categories, category = _used(self.categories, self.category[votes]) if self.category is not None else ((), None)
        return replace(
            self,
            contestants=contestants,
            prompts=prompts,
            raters=raters,
            a=sides[: len(a)],
            b=sides[len(a) :],
            label=self.label[votes],
            prompt=prompt,
            rater=rater,
            categories=categories,
            category=category,
            probability=self.probability[votes] if self.probability is not None else None,
            forms=self.forms[votes] if self.forms is not None else None,
            turn=self.turn[votes] if self.turn is not None else None,
            identical=self.identical[votes] if self.identical is not None else None,
        )


def encode_votes(votes: Iterable[VoteRecord]) -> VoteColumns:
    """Turn records into arrays (about half a second per million).

    Raises InvalidInput for an unknown label (never read as a tie), a contestant that meets itself and a probability
    outside (0, 1].
    """
    records = votes if isinstance(votes, Sequence) else list(votes)
    sides_a, sides_b = [vote.a for vote in records], [vote.b for vote in records]
    contestants = tuple(sorted(dict.fromkeys(sides_a) | dict.fromkeys(sides_b)))
    index = index_of(contestants)
    a, b = codes_of(sides_a, index), codes_of(sides_b, index)
    alone = np.flatnonzero(a == b)
    if len(alone):
        raise InvalidInput(
            f"Vote {int(alone[0]) + 1} compares {sides_a[alone[0]]!r} with itself.",
            remedy="A battle needs two different contestants.",
            field="b",
        )
    label_index: dict[str, int] = {label.value: code for code, label in enumerate(LABELS)}
    labels = [vote.winner for vote in records]
    unknown = [label for label in dict.fromkeys(labels) if label not in label_index]
    if unknown:
        raise InvalidInput(
            f"Vote {labels.index(unknown[0]) + 1} has the unknown winner {unknown[0]!r}.",
            remedy=LABEL_REMEDY,
            field="winner",
        )
    prompts, prompt = _numbered([vote.prompt for vote in records])
    raters, rater = _numbered([vote.rater for vote in records])
    categories = tuple(sorted({vote.category for vote in records}))
    return VoteColumns(
        contestants=contestants,
        prompts=prompts,
        raters=raters,
        a=a,
        b=b,
        label=codes_of(labels, label_index),
        prompt=prompt,
        rater=rater,
        categories=categories if any(categories) else (),
        category=(
            codes_of([vote.category for vote in records], {name: code for code, name in enumerate(categories)})
            if any(categories)
            else None
        ),
        probability=_probabilities(records),
        forms=_forms(records),
        turn=_numbered([vote.turn for vote in records])[1] if any(vote.turn for vote in records) else None,
        identical=np.array([vote.identical for vote in records]) if any(vote.identical for vote in records) else None,
    )


def _probabilities(records: Sequence[VoteRecord]) -> FloatArray | None:
    if all(vote.probability is None for vote in records):
        return None
    values = np.array([np.nan if vote.probability is None else vote.probability for vote in records], dtype=np.float64)
    check_probabilities(values)
    return values


def check_probabilities(values: FloatArray) -> None:
    """Raise InvalidInput for a sampling probability outside (0, 1]; NaN is unknown."""
    outside = np.flatnonzero((values <= 0) | (values > 1))
    if len(outside):
        raise InvalidInput(
            f"Vote {int(outside[0]) + 1} has the sampling probability {values[outside[0]]:g}.",
            remedy="Give the chance with which the battle was drawn, above 0 and at most 1, or leave it empty.",
            field="probability",
        )


def _forms(records: Sequence[VoteRecord]) -> FloatArray | None:
    if all(vote.form_a is None or vote.form_b is None for vote in records):
        return None
    sides = [
        np.array([getattr(vote, side) or UNKNOWN for vote in records], dtype=np.float64)
        for side in ("form_a", "form_b")
    ]
    return relative_difference(sides[0], sides[1])


def _numbered(values: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    index = index_of(dict.fromkeys(values))
    return tuple(index), codes_of(values, index)


def index_of(names: Iterable[str]) -> dict[str, int]:
    """Number distinct names from 0."""
    return {name: code for code, name in enumerate(names)}


def codes_of(values: Sequence[str], index: dict[str, int]) -> IntArray:
    """Return the numbers of names."""
    return np.fromiter(map(index.__getitem__, values), dtype=np.int64, count=len(values))


def _used(names: tuple[str, ...], codes: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """Return the names that the codes use, and the codes among them."""
    counts = np.bincount(codes, minlength=len(names))
    present = np.flatnonzero(counts)
    position = np.zeros(len(names), dtype=np.int64)
    position[present] = np.arange(len(present))
    return tuple(names[code] for code in present), position[codes]
