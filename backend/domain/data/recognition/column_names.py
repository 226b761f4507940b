"""Usual column names of each field, and the likely column of a missing field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

import yaml

from backend.domain.data.rows.columns import last_name
from backend.domain.wording import list_first

FIELD_NAMES: dict[str, list[str]] = yaml.safe_load(files(__package__).joinpath("column_names.yaml").read_text("utf-8"))
"""For each field of backend.domain.data.rows.mapping the usual names of its column, the most likely first."""

SIDE_NAMES = (
    ("response_a", "response_b"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("response_0", "response_1"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("output_a", "output_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
    ("result_x", "result_y"),
    ("response_x", "response_y"),
    ("text_a", "text_b"),
)

NEAR = 0.72  # difflib's ratio: `respons` is near `response` (0.93), `note` is not near `output` (0.40)


def plain_name(column: str) -> str:
    """Return a column's name in lower case with underscores, as the tables spell it."""
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def names_of(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns by their plain names; a nested one also by its last name, if no other column has it."""
    listed = list(columns)
    by_name = {plain_name(column): column for column in reversed(listed)}
    by_depth = sorted(listed, key=lambda column: column.count("."))
    return {**{plain_name(last_name(column)): column for column in reversed(by_depth)}, **by_name}


def nearest_column(field: str, columns: Iterable[str], *, like: str = "") -> str | None:
    """Return the column most likely meant for a field, or None.

    A known name of the field comes first, then one that is spelled nearly like such a name or like `like`; objects with
    columns of their own come last.
    """
    listed = list(columns)
    objects = {column.rpartition(".")[0] for column in listed}
    names = [*([plain_name(like)] if like else []), *FIELD_NAMES.get(field, [])]
    for is_object in (False, True):
        plain = names_of(column for column in listed if (column in objects) == is_object)
        for name in names:
            if name in plain:
                return plain[name]
        for name in names:
            near = difflib.get_close_matches(name, plain, n=1, cutoff=NEAR)
            if near:
                return plain[near[0]]
    return None


def describe_missing(column: str, field: str, others: Sequence[str]) -> str:
    """Return the reason for a missing column: the columns found instead, and the nearest of them."""
    if not others:
        return f"column `{column}` is missing, and no column is left to take its place"
    near = nearest_column(field, others, like=column)
    listed = list_first([f"`{name}`" for name in others], 12)
    hint = "" if near is None else "; use it?" if len(others) == 1 else f"; use `{near}`?"
    return f"column `{column}` is missing (found: {listed}{hint})"
