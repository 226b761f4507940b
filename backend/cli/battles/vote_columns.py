"""Options of commands that read a file of votes with columns of other names, or other words for the winner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from backend.domain.battles.vote_files.rows import FIELDS
from backend.domain.battles.votes import LABEL_REMEDY, Label
from backend.errors import InvalidInput

ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="FIELD=COLUMN for columns of other names, such as rater=who; prompt= and rater= for none.",
    ),
]

WinnerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--winner", help="WORD=LABEL for other words in the winner's column, such as links=A and unentschieden=TIE."
    ),
]


def read_column_option(columns: Sequence[str] | None) -> dict[str, str]:
    """Return the column of each field that `--column` names. Raises InvalidInput for an unknown field."""
    pairs = [column.partition("=") for column in columns or ()]
    unknown = [field for field, sign, _ in pairs if not sign or field not in FIELDS]
    if unknown:
        raise InvalidInput(
            f"--column {unknown[0]!r} names no field of a vote.", remedy=f"Write FIELD=COLUMN with {', '.join(FIELDS)}."
        )
    return {field: column for field, _, column in pairs}


def read_winners(words: Sequence[str] | None) -> dict[str, Label]:
    """Return the label of each word that `--winner` names. Raises InvalidInput for an unknown label."""
    pairs = [word.rpartition("=") for word in words or ()]
    unknown = [f"{word}{sign}{label}" for word, sign, label in pairs if not word or label not in Label.__members__]
    if unknown:
        raise InvalidInput(f"--winner {unknown[0]!r} names no label.", remedy=f"Write WORD=LABEL. {LABEL_REMEDY}")
    return {word: Label(label) for word, _, label in pairs}
