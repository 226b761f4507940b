"""Looking into files of rows without reading all of them: the head of an upload, a page of a version's Parquet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from backend.errors import InvalidInput

ENDINGS = (".txt", ".jsonl", ".json", ".csv", ".parquet")
HEAD_BYTES = 2 * 2**20

Row = dict[str, Any]


def read_head(path: Path, *, limit: int = 50) -> list[Row]:
    """Return the first rows of a file as records of columns; a text file gives one row {"text": its head}.

    At most the first 2 MiB are read. Raises InvalidInput if the file is empty or not what its ending says.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InvalidInput(f"{path.name} is of a kind that can't be read.", remedy=f"Use {', '.join(ENDINGS)}.", field="file")
    if ending == ".parquet":
        return _parquet_head(path, limit)
    with path.open("rb") as file:
        block = file.read(HEAD_BYTES)
    whole = path.stat().st_size <= HEAD_BYTES
    text = _decode(block, path.name, whole=whole)
    if not text.strip():
        raise InvalidInput(f"{path.name} is empty.", field="file")
    if ending == ".txt":
        return [{"text": text}]
    rows = {".jsonl": _jsonl_head, ".json": _json_head, ".csv": _csv_head}[ending](text, path.name, limit, whole)
    if not rows:
        raise InvalidInput(f"{path.name} holds no rows.", remedy="It must be a list of records.", field="file")
    return rows


def read_rows(folder: Path, *, split: str, offset: int = 0, limit: int = 20) -> list[Row]:
    """Return some rows of one split of a version (`<folder>/<split>.parquet`), without loading the rest."""
    path = folder / f"{split}.parquet"
    if not path.is_file():
        return []
    rows: list[Row] = []
    skip = offset
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if skip >= count:
                skip -= count
                continue
            for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                taken = batch.slice(min(skip, batch.num_rows), limit - len(rows)).to_pylist()
                skip = max(0, skip - batch.num_rows)
                rows.extend(taken)
                if len(rows) >= limit:
                    return rows
    return rows


def _decode(block: bytes, name: str, *, whole: bool) -> str:
    try:
        return block.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not whole and error.start >= len(block) - 4:
            return block[: error.start].decode("utf-8-sig")  # a character cut in two by the end of the head
        raise InvalidInput(
            f"{name} is not UTF-8 text: byte {error.start} can't be read.", remedy="Save it as UTF-8.", field="file"
        ) from error


def _jsonl_head(text: str, name: str, limit: int, whole: bool) -> list[Row]:
    lines = text.split("\n")
    if not whole:
        lines = lines[:-1]  # torn by the end of the head
    rows: list[Row] = []
    for line in lines:
        if len(rows) >= limit:
            break
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the import names every line it rejects
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _json_head(text: str, name: str, limit: int, whole: bool) -> list[Row]:
    decoder = json.JSONDecoder()
    start = text.find("[")
    if text.lstrip()[:1] == "{":  # {"data": [...]}: the first list of the object
        start = text.find("[")
    if start < 0:
        raise InvalidInput(
            f"{name} holds no list of rows.", remedy="A .json file is a list of records; one record a line is .jsonl.", field="file"
        )
    rows: list[Row] = []
    place = start + 1
    while len(rows) < limit:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place >= len(text) or text[place] == "]":
            break
        try:
            row, place = decoder.raw_decode(text, place)
        except ValueError as error:
            if not whole:
                break
            raise InvalidInput(f"{name} is not JSON: {error}.", field="file") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _csv_head(text: str, name: str, limit: int, whole: bool) -> list[Row]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return [{key: value for key, value in row.items() if key is not None} for _, row in zip(range(limit), reader, strict=False)]
    except csv.Error as error:
        raise InvalidInput(f"{name} is not CSV: {error}.", field="file") from error


def _parquet_head(path: Path, limit: int) -> list[Row]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=limit), None)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"{path.name} is not Parquet: {error}.", field="file") from error
    rows: list[Row] = batch.to_pylist() if batch is not None else []
    if not rows:
        raise InvalidInput(f"{path.name} holds no rows.", field="file")
    return rows
