"""Rows as their file has them: kept as JSON text beside what was made of them, so that a task reads any column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.columns import plain_name

RECORD = "record"
KEEPS_RECORDS = (DatasetKind.BENCHMARK, DatasetKind.RECORDS)
"""Kinds whose rows hold the file's own row as JSON text in `record`."""
_MAX_BYTES_SHOWN = 32


def record_text(row: Mapping[str, Any], *, file: str = "") -> str:
    """Return a file's row as JSON text, with the file's name as column `file` where several have no such column."""
    values = {**({"file": file} if file else {}), **row}
    try:
        text = json.dumps(values, ensure_ascii=False, default=_plain)
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can represent
        text = json.dumps(values, default=_plain)
    return text


def with_record(row: Mapping[str, Any], source: Mapping[str, Any], *, file: str = "") -> dict[str, object]:
    """Return a canonical row with the file's own row beside it, unless that says nothing more."""
    return dict(row) if not file and row == source else {**row, RECORD: record_text(source, file=file)}


def columns_of(row: Mapping[str, Any]) -> dict[str, object]:
    """Return what a task's templates read of a stored row.

    The columns of the file come first; then those of the canonical row that the file does not have; then every column
    under its plain name (`Best Answer` as `best_answer`). `canonical` and `raw` hold the two rows whole.
    """
    canonical = {name: value for name, value in row.items() if name != RECORD}
    raw = file_row(row)
    columns = {**canonical, **raw}
    for name in list(columns):
        columns.setdefault(plain_name(name), columns[name])
    columns.setdefault("canonical", canonical)
    columns.setdefault("raw", raw)
    return columns


def file_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return the file's own row of a stored one."""
    raw: dict[str, object] = json.loads(row[RECORD]) if row.get(RECORD) else dict(row)
    return raw


def texts_of(value: Any) -> list[str]:
    """Return the texts inside a record, in reading order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in texts_of(part)]
    return [text for part in value for text in texts_of(part)] if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>" if len(value) > _MAX_BYTES_SHOWN else value.decode("utf-8", "replace")
    return value.tolist() if hasattr(value, "tolist") else str(value)
