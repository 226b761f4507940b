"""Option `--column` of commands that read a file of votes with columns of other names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from backend.domain.battles.vote_files.rows import FIELDS
from backend.errors import InvalidInput

ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="FIELD=COLUMN for columns of other names, such as rater=who; prompt= and rater= for none.",
    ),
]


def read_columns(columns: Sequence[str] | None) -> dict[str, str]:
    """Return the column of each field that `--column` names. Raises InvalidInput for an unknown field."""
    pairs = [column.partition("=") for column in columns or ()]
    unknown = [field for field, sign, _ in pairs if not sign or field not in FIELDS]
    if unknown:
        raise InvalidInput(
            f"--column {unknown[0]!r} names no field of a vote.", remedy=f"Write FIELD=COLUMN with {', '.join(FIELDS)}."
        )
    return {field: column for field, _, column in pairs}
