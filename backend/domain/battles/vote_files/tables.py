"""Read large files of votes with Arrow: a million votes in about half a second.

Arrow reads what is regular. Anything else (a list of JSON, an unknown winner, an empty cell, mixed types, a row too
short) is left to `rows`, which reads more and names the line at fault. So both read the same votes, or only the slow
one does.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.json

from backend.domain.battles.vote_files.rows import COLUMNS, OPTIONAL, WORDS, is_yes, parse_votes, verdict_label
from backend.domain.battles.votes import (
    FEATURES,
    LABELS,
    FloatArray,
    IntArray,
    Label,
    VoteColumns,
    encode_votes,
    relative_difference,
)

_BOM = b"\xef\xbb\xbf"
_WORD = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
_BLOCK_BYTES = 2**24
_HEADER_BYTES = 2**16
NUMBERS = tuple(field for field in OPTIONAL if field not in WORDS)


def read_vote_file(
    data: bytes, *, mapping: Mapping[str, str] | None = None, labels: Mapping[str, Label] | None = None
) -> VoteColumns:
    """Read votes from the bytes of a file: CSV, JSON lines or a JSON list; `mapping` and `labels` as of
    `rows.parse_votes`.

    Raises what `rows.parse_votes` raises, and UnicodeDecodeError if the bytes are not UTF-8.
    """
    data = data.removeprefix(_BOM)
    begin = data[:_HEADER_BYTES].lstrip()[:1]
    columns = None
    if not mapping and begin != b"[" and b"\0" not in data:
        try:
            columns = _read_json_lines(data) if begin == b"{" else _read_csv(data)
        except (pyarrow.ArrowException, csv.Error, ValueError, KeyError, RecursionError):
            columns = None
    if columns is not None:
        return columns
    return encode_votes(parse_votes(data.decode("utf-8"), mapping=mapping, labels=labels))


def _read_csv(data: bytes) -> VoteColumns | None:
    if data.count(b"\r") != data.count(b"\r\n"):
        return None
    head = data[:_HEADER_BYTES].decode("utf-8", errors="ignore")
    header = next(csv.reader(io.StringIO(head, newline="")), [])
    names = [cell.strip().lower() for cell in header]
    columns = _columns(dict(zip(names, header, strict=True)))
    if columns is None or len(set(names)) < len(names):
        return None
    table = pyarrow.csv.read_csv(
        io.BytesIO(data),
        read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=b'"' in data),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=list(columns.values()),
            column_types={
                column: pyarrow.float64() if field in NUMBERS else _WORD for field, column in columns.items()
            },
            null_values=[""],
            strings_can_be_null=False,
        ),
    )
    return _encode(table, columns)


def _read_json_lines(data: bytes) -> VoteColumns | None:
    """Read objects whose first line decides the columns and their types."""
    first = json.loads(data.lstrip().split(b"\n", 1)[0])
    names = {str(name).strip().lower(): str(name) for name in first}
    columns = _columns(names)
    if columns is None or len(names) < len(first):
        return None
    fields = {}
    for field, column in columns.items():
        kind = type(first[column])
        if field not in NUMBERS and kind not in (str, int):
            return None
        fields[column] = pyarrow.float64() if field in NUMBERS else pyarrow.string() if kind is str else pyarrow.int64()
    # a later line may have an optional column that the first lacks, or a name that takes precedence
    others = {name for known in (*COLUMNS.values(), *OPTIONAL.values()) for name in known} - set(names)
    fields |= {name: pyarrow.string() for name in others}
    table = pyarrow.json.read_json(
        io.BytesIO(data),
        read_options=pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pyarrow.schema(list(fields.items())), unexpected_field_behavior="ignore"
        ),
    )
    if any(table.column(name).null_count < len(table) for name in others):
        return None
    return _encode(table, columns)


def _columns(names: Mapping[str, str]) -> dict[str, str] | None:
    """Return field -> column as the file writes it; None if a column is missing."""
    known = COLUMNS | OPTIONAL
    columns = {field: next((names[name] for name in known[field] if name in names), None) for field in known}
    if any(columns[field] is None for field in COLUMNS):
        return None
    return {field: column for field, column in columns.items() if column is not None}


def _encode(table: pyarrow.Table, columns: Mapping[str, str]) -> VoteColumns | None:
    words = {field: _words(table, columns[field]) for field in COLUMNS}
    encoded = {field: pair for field, pair in words.items() if pair is not None}
    if len(encoded) < len(words):
        return None
    lower = {field: column.strip().lower() for field, column in columns.items()}
    labels = [verdict_label(word, lower) for word in encoded["winner"][0]]
    contestants = tuple(sorted({*encoded["a"][0], *encoded["b"][0]}))
    index = {name: code for code, name in enumerate(contestants)}
    a, b = (
        np.array([index[name] for name in names], dtype=np.int64)[codes]
        for names, codes in (encoded["a"], encoded["b"])
    )
    numbers = {field: _numbers(table, columns[field]) for field in NUMBERS if field in columns}
    category = _words(table, columns["category"], required=False) if "category" in columns else ((), None)
    equal = _words(table, columns["identical"], required=False) if "identical" in columns else ((), None)
    values = [column for column in numbers.values() if column is not None]
    if None in labels or (a == b).any() or category is None or equal is None or len(values) < len(numbers):
        return None
    probability = numbers.get("probability")
    if probability is not None and ((probability <= 0) | (probability > 1)).any():
        return None
    named = any(category[0])
    categories = tuple(sorted(category[0]))
    label = np.array([LABELS.index(label) for label in labels if label], dtype=np.int64)[encoded["winner"][1]]
    identical = None
    if equal[1] is not None:
        identical = np.array([is_yes(word) for word in equal[0]])[equal[1]] & (label == LABELS.index(Label.TIE))
    return VoteColumns(
        contestants=contestants,
        prompts=encoded["prompt"][0],
        raters=encoded["rater"][0],
        a=a,
        b=b,
        label=label,
        prompt=encoded["prompt"][1],
        rater=encoded["rater"][1],
        categories=categories if named else (),
        category=np.array([categories.index(name) for name in category[0]])[category[1]] if named else None,
        probability=None if probability is None or np.isnan(probability).all() else probability,
        forms=_forms(numbers, len(a)),
        identical=identical if identical is not None and identical.any() else None,
    )


def _words(table: pyarrow.Table, column: str, *, required: bool = True) -> tuple[tuple[str, ...], IntArray] | None:
    """Return the distinct words of a column by first appearance, stripped, and each row's code; None if a required word
    is empty.
    """
    values = table.column(column)
    if required and values.null_count:
        return None
    if not pyarrow.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    values = values.unify_dictionaries().combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):  # no rows
        return None
    position: dict[str, int] = {}
    codes = np.array(
        [position.setdefault(str(word).strip(), len(position)) for word in values.dictionary.to_pylist()],
        dtype=np.int64,
    )
    if required and "" in position:
        return None
    if not values.null_count:
        return tuple(position), codes[values.indices.to_numpy()]
    empty = position.setdefault("", len(position))
    return tuple(position), np.append(codes, empty)[values.indices.fill_null(len(codes)).to_numpy()]


def _numbers(table: pyarrow.Table, column: str) -> FloatArray | None:
    """Return a column of numbers, NaN where empty; None if one is negative or not finite."""
    values = table.column(column)
    numbers = np.asarray(values.to_numpy(), dtype=np.float64)
    empty = np.asarray(values.is_null().to_numpy(), dtype=np.bool_)
    return None if (~np.isfinite(numbers[~empty])).any() or (numbers[~empty] < 0).any() else numbers


def _forms(numbers: Mapping[str, Any], count: int) -> FloatArray | None:
    missing = np.full(count, np.nan)
    sides = [np.column_stack([numbers.get(f"{feature}_{side}", missing) for feature in FEATURES]) for side in "ab"]
    forms = relative_difference(sides[0], sides[1])
    return None if np.isnan(forms).all() else forms
