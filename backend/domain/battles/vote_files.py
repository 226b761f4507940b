"""Read files of votes: CSV, JSON lines or a JSON list, in our own columns, in MT-bench's or with a left and a right side.

    prompt       rater    a        b        winner    A, B, TIE or BOTH_BAD
    question_id  judge    model_a  model_b  winner    model_a, model_b, tie, tie (inconsistent) or tie (bothbad)
    prompt       worker   left     right    winner    left, right or tie

Optional: `category` of the prompt; `probability` (or `sampling_probability`) with which the battle was drawn; the form of the answers, for
control of length and style: `length_a`, `length_b` and the same of `headers`, `lists` and `bold`. `vote_tables` reads large files.

MT-bench's `turn` tells two votes of a rater apart; both turns of a question are votes on one prompt, so intervals clustered by prompt take
their dependence into account.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.domain.battles.answer_features import FEATURES, AnswerFeatures
from backend.domain.battles.votes import LABEL_REMEDY, Label, VoteRecord
from backend.errors import InvalidInput

COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question_id"),
    "rater": ("rater", "judge", "worker", "annotator"),
    "a": ("a", "model_a", "left"),
    "b": ("b", "model_b", "right"),
    "winner": ("winner",),
}
WORDS = ("category", "turn")
"""Optional columns of words; the others are numbers."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "turn": ("turn",),
    "category": ("category",),
    "probability": ("probability", "sampling_probability"),
    **{f"{feature}_{side}": (f"{feature}_{side}",) for feature in FEATURES for side in "ab"},
}
COLUMNS_REMEDY = f"Name the columns {','.join(COLUMNS)}, or MT-bench's question_id,judge,model_a,model_b,winner."
_WORDS = {
    "LEFT": Label.A,
    "RIGHT": Label.B,
    "TIE_(INCONSISTENT)": Label.TIE,
    "TIE_INCONSISTENT": Label.TIE,
    "TIE_(BOTHBAD)": Label.BOTH_BAD,
    "TIE_BOTHBAD": Label.BOTH_BAD,
    "BOTHBAD": Label.BOTH_BAD,
}
MAX_CELL_BYTES = 2**26  # MT-bench keeps whole conversations beside each vote


def parse_votes(text: str) -> list[VoteRecord]:
    """Read votes from the text of a file; `{` or `[` at its beginning mean JSON.

    `winner` names a side, in any case, never a contestant. Other columns are ignored. Raises InvalidInput naming the line at fault, and the
    columns that are missing.
    """
    text = text.removeprefix("\ufeff")
    begin = text.lstrip()[:1]
    rows = _json_lines(text) if begin == "{" else _json_list(text) if begin == "[" else None
    return parse_votes_csv(text) if rows is None else [_record(row, _columns(list(row), where), where=where) for where, row in rows]


def parse_votes_csv(text: str) -> list[VoteRecord]:
    """Read votes from CSV text with a header, in any order and case of its columns. Raises what `parse_votes` raises."""
    csv.field_size_limit(MAX_CELL_BYTES)
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    try:
        header = next(reader, None)
        if header is None:
            raise InvalidInput("The file of votes is empty.", remedy=COLUMNS_REMEDY)
        names = [cell.strip().lower() for cell in header]
        columns = _columns(names, "the first line")
        rows = (dict(zip(names, row, strict=False)) for row in reader if any(cell.strip() for cell in row))
        return [_record(row, columns, where=f"Line {reader.line_num}") for row in rows]
    except csv.Error as error:
        raise InvalidInput(f"Line {reader.line_num} is not CSV: {error}.", remedy="Check its quotes and commas.") from error


def _json_lines(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"Line {number}", _object(_parsed(line, where=f"Line {number}"), where=f"Line {number}")


def _json_list(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    values: Iterable[Any] = _parsed(text, where="The file")
    for number, value in enumerate(values, start=1):
        yield f"Vote {number}", _object(value, where=f"Vote {number}")


def _parsed(text: str, *, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not JSON: {str(error)[:100]}.", remedy="Write one object a line, or a list of them.") from error


def _object(value: Any, *, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} is not an object with the columns of a vote.", remedy=COLUMNS_REMEDY)
    return {str(name).strip().lower(): cell for name, cell in value.items()}


def _columns(names: Sequence[str], where: str) -> dict[str, str]:
    """Return field -> column, optional fields only if there are columns for them. Raises InvalidInput naming the fields without one."""
    columns = {field: next((name for name in known if name in names), "") for field, known in COLUMNS.items()}
    missing = [field for field, column in columns.items() if not column]
    if missing:
        available = ", ".join(names)[:300] or "nothing"
        raise InvalidInput(
            f"The votes lack the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; {where} has {available}.",
            remedy=COLUMNS_REMEDY,
            field=missing[0],
        )
    return columns | {field: name for field, known in OPTIONAL.items() for name in known if name in names}


def _record(row: Mapping[str, Any], columns: Mapping[str, str], *, where: str) -> VoteRecord:
    cells = {field: _cell(row.get(column)) for field, column in columns.items()}
    empty = [field for field in COLUMNS if not cells[field]]
    if empty:
        raise InvalidInput(f"{where} has no {columns[empty[0]]}.", remedy="Fill it in or remove the vote.", field=empty[0])
    label = label_of(cells["winner"], columns)
    if label is None:
        sides = "" if columns["a"] == "a" else f" Here the sides are {columns['a']} and {columns['b']}."
        raise InvalidInput(f"{where} has the unknown winner {cells['winner'][:60]!r}.", remedy=f"{LABEL_REMEDY}{sides}", field="winner")
    if cells["a"] == cells["b"]:
        raise InvalidInput(f"{where} compares {cells['a']!r} with itself.", remedy="A battle needs two different contestants.", field="b")
    numbers = {field: _number(cells[field], field, where=where) for field in OPTIONAL if field not in WORDS and cells.get(field)}
    return VoteRecord(
        prompt=cells["prompt"],
        rater=cells["rater"],
        a=cells["a"],
        b=cells["b"],
        winner=label,
        turn=cells.get("turn", ""),
        category=cells.get("category", ""),
        probability=numbers.get("probability"),
        form_a=_form(numbers, "a"),
        form_b=_form(numbers, "b"),
    )


def _number(cell: str, field: str, *, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    is_probability = field == "probability"
    if not math.isfinite(value) or value < 0 or (is_probability and not 0 < value <= 1):
        remedy = (
            "Write the chance with which the battle was drawn, above 0 and at most 1" if is_probability else "Write a count of 0 or more"
        )
        raise InvalidInput(f"{where} has the {field} {cell[:60]!r}.", remedy=f"{remedy}, or leave it empty.", field=field)
    return value


def _form(numbers: Mapping[str, float], side: str) -> AnswerFeatures | None:
    values = [numbers.get(f"{feature}_{side}", math.nan) for feature in FEATURES]
    return None if all(map(math.isnan, values)) else AnswerFeatures(*values)


def _cell(value: Any) -> str:
    """Return a cell as text: MT-bench's judges are lists such as ["gpt-4", "pair-v2"], its questions numbers."""
    if isinstance(value, list):
        return " ".join(map(_cell, value)).strip()
    return "" if value is None else str(value).strip()


def label_of(winner: str, columns: Mapping[str, str]) -> Label | None:
    """Return the label of a verdict, None if it is none; the name of a side's column means that side."""
    word = winner.upper().replace(" ", "_").replace("-", "_")
    for side in (Label.A, Label.B):
        if columns[side.lower()] != side.lower() and word == columns[side.lower()].upper():
            return side
    return Label.__members__.get(word) or _WORDS.get(word)
