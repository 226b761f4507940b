"""Split rows into train and validation by a seeded hash of their content, never by position. So equal rows are never in
both splits, and in large datasets a row keeps its split when others are added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pyarrow
import xxhash
from pyarrow import compute

from backend.domain.data.kinds import UNSPLIT_KINDS, DatasetKind
from backend.domain.data.splits import Split
from jobs.data.row_keys import RowKeys, is_blank, one_array
from jobs.data.writing import DatasetWriter

HELD_ROWS, HELD_BYTES = 1000, 64 * 2**20  # below this size a dataset is small, and its split exact
MIN_DOCUMENTS = 10  # with fewer texts, each text is cut in two


def val_mask(keys: RowKeys, *, seed: int, val_fraction: float) -> npt.NDArray[np.bool_]:
    """Return a mask of validation rows: XXH3 of the content with the seed is below the share."""
    if val_fraction <= 0:
        return np.zeros(len(keys), dtype=bool)
    return _hashes(keys, seed=seed) < np.uint64(min(val_fraction * 2.0**64, 2.0**64 - 2048))


def _hashes(keys: RowKeys, *, seed: int) -> npt.NDArray[np.uint64]:
    data, bounds = keys.data, keys.offsets.tolist()
    hashes = map(xxhash.xxh3_64_intdigest, map(data.__getitem__, map(slice, bounds, bounds[1:])), repeat(seed % 2**64))
    return np.fromiter(hashes, dtype=np.uint64, count=len(keys))


def exact_val_mask(keys: RowKeys, *, seed: int, val_fraction: float) -> npt.NDArray[np.bool_]:
    """Return the mask of validation rows of a small dataset, with an exact share of its distinct rows.

    With two or more distinct rows, at least one is, and never all.
    """
    contents = list(keys)
    distinct = sorted(set(zip(_hashes(keys, seed=seed).tolist(), contents, strict=True)))
    if val_fraction <= 0 or len(distinct) < 2:
        return np.zeros(len(contents), dtype=bool)
    count = min(len(distinct) - 1, max(1, round(val_fraction * len(distinct))))
    chosen = {content for _, content in distinct[:count]}
    return np.array([content in chosen for content in contents], dtype=bool)


def val_rows(
    tables: Iterable[pyarrow.Table], *, kind: DatasetKind, seed: int, val_fraction: float
) -> npt.NDArray[np.bool_]:
    """Return the mask of validation rows of a finished version, by the same rule as an import."""
    masks: list[npt.NDArray[np.bool_]] = []
    buffered: list[pyarrow.Table] = []
    rows = size = 0
    for table in tables:
        keys = RowKeys(table)
        rows, size = rows + len(keys), size + len(keys.data)
        masks.append(val_mask(keys, seed=seed, val_fraction=val_fraction))
        buffered = [*buffered, table] if is_small(kind, rows=rows, size=size) else []
    if buffered:
        return exact_val_mask(RowKeys(pyarrow.concat_tables(buffered)), seed=seed, val_fraction=val_fraction)
    return np.concatenate([np.zeros(0, dtype=bool), *masks])


def is_small(kind: DatasetKind, *, rows: int, size: int) -> bool:
    """Return whether a dataset of this size is small enough for an exact split."""
    return rows <= HELD_ROWS and (size <= HELD_BYTES or _is_few_texts(kind, rows))


def _is_few_texts(kind: DatasetKind, rows: int) -> bool:
    return kind is DatasetKind.TEXT and rows < MIN_DOCUMENTS


def cut_text(text: bytes, *, val_fraction: float) -> tuple[bytes, bytes]:
    """Cut a text (UTF-8) in two: the last `val_fraction` of its bytes is for validation.

    Cuts at the last line break before that position, else at a space, else there. A text too short to cut goes to
    train.
    """
    place = round(len(text) * (1 - val_fraction))
    if val_fraction <= 0 or place <= 0:
        return text, b""
    for mark in (b"\n", b" "):
        cut = text.rfind(mark, place - max(1, len(text) // 20), place)
        if cut > 0:
            place = cut + 1
            break
    while 0 < place < len(text) and text[place] & 0xC0 == 0x80:  # not inside a character
        place -= 1
    head, tail = text[:place], text[place:]
    return (text, b"") if not tail or is_blank(head) or is_blank(tail) else (head, tail)


@dataclass(frozen=True)
class DividedRows:
    """Consecutive rows with their keys, and the same rows by split."""

    table: pyarrow.Table
    keys: RowKeys
    sides: dict[Split, pyarrow.Table]
    side: Split | None = None


class Splitter:
    """Writes rows to their split. Small datasets are buffered to the end, for an exact split."""

    def __init__(
        self,
        *,
        kind: DatasetKind,
        val_fraction: float,
        seed: int,
        by_first_message: bool = False,
        has_sides: bool = False,
    ) -> None:
        """`by_first_message` keeps rows with the same first message in one split, since conversations of one tree
        overlap. With `has_sides` the source assigns the splits.
        """
        self._by_first_message = by_first_message
        self._kind, self._val_fraction, self._seed = kind, val_fraction, seed
        self._held: list[tuple[pyarrow.Table, RowKeys]] = []
        self._rows = self._bytes = 0
        self.is_small = kind not in UNSPLIT_KINDS and not has_sides

    def divide(self, table: pyarrow.Table, keys: RowKeys, *, side: Split | None = None) -> DividedRows:
        """Split rows by content, or by the side that the source assigns. Thread-safe."""
        if side is not None:
            return DividedRows(table, keys, {side: table}, side)
        share = 0.0 if self._kind in UNSPLIT_KINDS else self._val_fraction
        mask = val_mask(self._split_keys(table, keys), seed=self._seed, val_fraction=share)
        return DividedRows(table, keys, _sides(table, mask))

    def _split_keys(self, table: pyarrow.Table, keys: RowKeys) -> RowKeys:
        """Return the keys by which rows are split: their own, or those of their first messages."""
        return RowKeys(_first_messages(table)) if self._by_first_message else keys

    def take(self, rows: DividedRows, writer: DatasetWriter) -> None:
        """Add the next rows to the splits and the content hash."""
        writer.note_rows(rows.table, rows.keys)
        if not self.is_small:
            _add(rows.sides, writer)
            return
        self._held.append((rows.table, rows.keys))
        self._rows += len(rows.keys)
        self._bytes += len(rows.keys.data)
        self.is_small = is_small(self._kind, rows=self._rows, size=self._bytes)
        if not self.is_small:
            for buffered in self._held:
                _add(self.divide(*buffered).sides, writer)
            self._held.clear()

    def finish(self, writer: DatasetWriter) -> None:
        """Write the buffered rows."""
        if not self._held:
            return
        if _is_few_texts(self._kind, self._rows):
            self._cut(writer)
            return
        table = pyarrow.concat_tables([table for table, _ in self._held]).combine_chunks()
        keys = self._split_keys(table, RowKeys(table))
        _add(_sides(table, exact_val_mask(keys, seed=self._seed, val_fraction=self._val_fraction)), writer)

    def _cut(self, writer: DatasetWriter) -> None:
        parts: dict[Split, list[bytes]] = {"train": [], "val": []}
        texts_by_size: dict[int, list[bytes]] = {}
        for text in (text for _, keys in self._held for text in keys):  # a row of one text is its own key
            alike = texts_by_size.setdefault(len(text), [])
            if text in alike:
                continue  # a second copy would leak the validation part of the first into train
            alike.append(text)
            head, tail = cut_text(text, val_fraction=self._val_fraction)
            parts["train"].append(head)
            if tail:
                parts["val"].append(tail)
        for split, texts in parts.items():
            writer.add_table(pyarrow.table([pyarrow.array(texts, pyarrow.string())], names=["text"]), split=split)


def _first_messages(table: pyarrow.Table) -> pyarrow.Table:
    column = one_array(table.column(0))  # `messages` or `prompt`, by the schemas
    if not len(column):
        return pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
    first = column.flatten().take(pyarrow.array(column.offsets.to_numpy()[:-1] - column.offsets[0].as_py()))
    return pyarrow.table({"text": compute.struct_field(first, "content")})


def _sides(table: pyarrow.Table, is_val: npt.NDArray[np.bool_]) -> dict[Split, pyarrow.Table]:
    if not is_val.any():
        return {"train": table}
    return {"train": table.filter(pyarrow.array(~is_val)), "val": table.filter(pyarrow.array(is_val))}


def _add(sides: dict[Split, pyarrow.Table], writer: DatasetWriter) -> None:
    for split, rows in sides.items():
        writer.add_table(rows, split=split)
