"""Votes as the statistics read them: who preferred which side of which battle. Knows labels and CSV text, no database.

A correction of a vote supersedes the first one before it comes here: each record counts once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from backend.errors import InvalidInput

COLUMNS = ("prompt", "rater", "a", "b", "winner")


class Label(StrEnum):
    """What a vote may say. `BOTH_BAD` counts as half a win in a rating and keeps its own count, because it speaks of absolute quality."""

    A = "A"
    B = "B"
    TIE = "TIE"
    BOTH_BAD = "BOTH_BAD"


LABELS = tuple(Label)
POINTS_OF_A = {Label.A: 1.0, Label.B: 0.0, Label.TIE: 0.5, Label.BOTH_BAD: 0.5}
LABEL_REMEDY = "Use A, B, TIE or BOTH_BAD."


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One vote: contestant `a` was shown as side a, `b` as side b; `winner` is A, B, TIE or BOTH_BAD."""

    prompt: str
    rater: str
    a: str
    b: str
    winner: str


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
        """What side a earned: 1, 0 or a half."""
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


def parse_votes_csv(text: str) -> list[VoteRecord]:
    """Read votes from CSV text with a header naming prompt, rater, a, b and winner (any order and case; other columns are ignored).

    `winner` is A, B, TIE or BOTH_BAD in any case, by side and never by a contestant's name. Raises InvalidInput naming the line at fault.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    try:
        header = next(reader, None)
        if header is None:
            raise InvalidInput("The file of votes is empty.", remedy=f"Its first line must name the columns {','.join(COLUMNS)}.")
        places = _places(header)
        return [_record(row, places, line=reader.line_num) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidInput(f"Line {reader.line_num} is not CSV: {error}.", remedy="Check its quotes and commas.") from error


def _places(header: Sequence[str]) -> dict[str, int]:
    names = [cell.strip().lower() for cell in header]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        found = ", ".join(names) or "nothing"
        raise InvalidInput(
            f"The votes lack the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; the first line has {found}.",
            remedy=f"Its first line must name the columns {','.join(COLUMNS)}.",
            field=missing[0],
        )
    return {column: names.index(column) for column in COLUMNS}


def _record(row: Sequence[str], places: dict[str, int], *, line: int) -> VoteRecord:
    cells = {column: row[place].strip() if place < len(row) else "" for column, place in places.items()}
    empty = [column for column, cell in cells.items() if not cell]
    if empty:
        raise InvalidInput(f"Line {line} has no {empty[0]}.", remedy="Fill it in or remove the line.", field=empty[0])
    label = cells["winner"].upper().replace(" ", "_").replace("-", "_")
    if label not in Label.__members__:
        raise InvalidInput(f"Line {line} has the unknown winner {cells['winner']!r}.", remedy=LABEL_REMEDY, field="winner")
    if cells["a"] == cells["b"]:
        raise InvalidInput(
            f"Line {line} compares {cells['a']!r} with itself.", remedy="A battle needs two different contestants.", field="b"
        )
    return VoteRecord(prompt=cells["prompt"], rater=cells["rater"], a=cells["a"], b=cells["b"], winner=label)


def _codes(values: Sequence[str], index: dict[str, int]) -> NDArray[np.int64]:
    return np.fromiter(map(index.__getitem__, values), dtype=np.int64, count=len(values))
