"""Vote records for the statistics: who preferred which side of which battle.

A correction of a vote supersedes the first one before it comes here: each record counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from backend.errors import InvalidInput


class Label(StrEnum):
    """Label of a vote. `BOTH_BAD` counts as half a win in a rating and is counted separately, since it rates absolute quality."""

    A = "A"
    B = "B"
    TIE = "TIE"
    BOTH_BAD = "BOTH_BAD"


LABELS = tuple(Label)
POINTS_OF_A = {Label.A: 1.0, Label.B: 0.0, Label.TIE: 0.5, Label.BOTH_BAD: 0.5}
LABEL_REMEDY = "Use A, B, TIE or BOTH_BAD."


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One vote: contestant `a` was shown as side a, `b` as side b; `winner` is A, B, TIE or BOTH_BAD.

    `turn` tells the turns of one prompt apart, where raters vote on each. `identical` marks a TIE that no one cast: two equal answers.
    """

    prompt: str
    rater: str
    a: str
    b: str
    winner: str
    turn: str = ""
    identical: bool = False


@dataclass(frozen=True, slots=True)
class VoteColumns:
    """Votes as arrays of one entry per vote: codes of `contestants` (sorted by name), LABELS, prompts and raters (by first appearance)."""

    contestants: tuple[str, ...]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    label: NDArray[np.int64]
    prompt: NDArray[np.int64]
    rater: NDArray[np.int64]
    num_prompts: int
    num_raters: int

    @property
    def points(self) -> NDArray[np.float64]:
        """Points of side a: 1, 0 or a half."""
        return np.array([POINTS_OF_A[label] for label in LABELS])[self.label]


def encode_votes(votes: Iterable[VoteRecord]) -> VoteColumns:
    """Turn records into arrays (about half a second per million).

    Raises InvalidInput for an unknown label (never read as a tie) and for a contestant that meets itself.
    """
    records = votes if isinstance(votes, Sequence) else list(votes)
    sides_a, sides_b = [vote.a for vote in records], [vote.b for vote in records]
    contestants = tuple(sorted(dict.fromkeys(sides_a) | dict.fromkeys(sides_b)))
    index = {name: code for code, name in enumerate(contestants)}
    a, b = _codes(sides_a, index), _codes(sides_b, index)
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
            f"Vote {labels.index(unknown[0]) + 1} has the unknown winner {unknown[0]!r}.", remedy=LABEL_REMEDY, field="winner"
        )
    prompts, raters = [vote.prompt for vote in records], [vote.rater for vote in records]
    prompt_index = {name: code for code, name in enumerate(dict.fromkeys(prompts))}
    rater_index = {name: code for code, name in enumerate(dict.fromkeys(raters))}
    return VoteColumns(
        contestants=contestants,
        a=a,
        b=b,
        label=_codes(labels, label_index),
        prompt=_codes(prompts, prompt_index),
        rater=_codes(raters, rater_index),
        num_prompts=len(prompt_index),
        num_raters=len(rater_index),
    )


def _codes(values: Sequence[str], index: dict[str, int]) -> NDArray[np.int64]:
    return np.fromiter(map(index.__getitem__, values), dtype=np.int64, count=len(values))
