"""Numbers of rows in files, read and written a block at a time, so that memory doesn't grow with the rows."""

from __future__ import annotations

import itertools
import mmap
import shutil
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
BLOCK = 1 << 16
"""Rows that are read at once in order."""
SPREAD = 512
"""Rows that are read or written at once in any order. Linux maps up to 64 KB around each, until they are released."""
SORTED_TOGETHER = 1 << 18
"""Rows that are sorted at once: a sort needs some hundred bytes a row."""
COPIED_BYTES = 1 << 20
MAX_LISTED = 1_000_000
"""Rows that a finding lists."""


class RowArray:
    """One number per row in a file. `append` adds them in order; afterwards they are read and changed."""

    def __init__(self, file: Path, dtype: npt.DTypeLike, *, count: int = 0) -> None:
        """Make a file of `count` zeros, which take no space on disk before they are changed."""
        self._path, self._dtype = file, np.dtype(dtype)
        self._out = file.open("wb")
        self._out.truncate(count * self._dtype.itemsize)
        self._count = count
        self._map: Any = None

    def __len__(self) -> int:
        return self._count

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return self._path.name

    def append(self, values: npt.ArrayLike) -> None:
        """Add numbers at the end."""
        added = np.asarray(values, dtype=self._dtype)
        self._out.write(added.tobytes())
        self._count += len(added)

    def append_file(self, file: Path) -> None:
        """Add the numbers of another array's file at the end."""
        with file.open("rb") as opened:
            shutil.copyfileobj(opened, self._out, COPIED_BYTES)
        self._count += file.stat().st_size // self._dtype.itemsize

    def close(self) -> None:
        """Close the file. The owner of its folder removes it."""
        self._out.close()
        self._map = None

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield (number of the first row, numbers) of consecutive rows from `first` to before `last`."""
        self._out.flush()
        last = self._count if last is None else last
        for begin in range(first, last, BLOCK):
            count = min(BLOCK, last - begin)
            yield begin, np.fromfile(self._path, dtype=self._dtype, count=count, offset=begin * self._dtype.itemsize)

    def take(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the numbers of some rows."""
        taken = np.empty(len(rows), dtype=self._dtype)
        for at in range(0, len(rows), SPREAD):
            taken[at : at + SPREAD] = self._mapped()[rows[at : at + SPREAD]]
            self.release()
        return taken

    def put(self, rows: npt.NDArray[Any], values: npt.ArrayLike) -> None:
        """Change the numbers of some rows."""
        spread = np.broadcast_to(np.asarray(values, dtype=self._dtype), rows.shape)
        for at in range(0, len(rows), SPREAD):
            self._mapped()[rows[at : at + SPREAD]] = spread[at : at + SPREAD]
            self.release()

    def release(self) -> None:
        """Release the memory of the file's pages, which are read again on access."""
        if self._map is not None:
            release(self._map)

    def parts(self, *, among: RowArray | None = None) -> Iterator[Iterator[tuple[Numbers, npt.NDArray[Any]]]]:
        """Split 64-bit keys by value into parts of about `SORTED_TOGETHER`; yield each as blocks of (rows, keys).

        Rows ascend. Rows whose key is 0, or that are 0 in `among`, are in no part. A part is larger only if a key is
        frequent, and has several blocks then.
        """
        num_parts = -(-self._count // SORTED_TOGETHER)
        for part in range(num_parts):
            yield self._blocks_of_part(part, num_parts, among)

    def _blocks_of_part(
        self, part: int, num_parts: int, among: RowArray | None
    ) -> Iterator[tuple[Numbers, npt.NDArray[Any]]]:
        rows, keys, size = [], [], 0
        chosen_blocks = among.blocks() if among else itertools.repeat((0, np.True_))
        for (begin, values), (_, is_chosen) in zip(self.blocks(), chosen_blocks, strict=False):
            is_in = (values != 0) & (is_chosen != 0)
            if num_parts > 1:
                is_in &= values % np.uint64(num_parts) == part
            chosen = np.flatnonzero(is_in)
            rows.append(chosen + begin)
            keys.append(values[chosen])
            size += len(chosen)
            if size >= 2 * SORTED_TOGETHER:  # keys are hashes: this many are in one part only if some are equal
                yield np.concatenate(rows), np.concatenate(keys)
                rows, keys, size = [], [], 0
        if size:
            yield np.concatenate(rows), np.concatenate(keys)

    def _mapped(self) -> npt.NDArray[Any]:
        if self._map is None:
            self._out.flush()
            self._map = np.memmap(self._path, dtype=self._dtype, mode="r+", shape=(self._count,))
        mapped: npt.NDArray[Any] = self._map
        return mapped


def release(mapped: npt.NDArray[Any]) -> None:
    """Release the memory of a mapped file's pages, which are read again on access."""
    if isinstance(mapped, np.memmap):
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def first_of_each(keys: RowArray, file: Path) -> RowArray:
    """Return for each row the first row with the same key; a key of 0 equals nothing."""
    firsts = RowArray(file, np.int64)
    for begin in range(0, len(keys), BLOCK):
        firsts.append(np.arange(begin, min(len(keys), begin + BLOCK)))
    for part in keys.parts():
        # sorted keys, and the first row of each
        known, known_rows = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        for rows, values in part:
            unique, first, inverse = np.unique(values, return_index=True, return_inverse=True)
            first_rows = rows[first]
            if len(known):
                places = np.minimum(np.searchsorted(known, unique), len(known) - 1)
                first_rows = np.where(known[places] == unique, known_rows[places], first_rows)
            firsts_here = first_rows[inverse]
            is_later = firsts_here != rows
            firsts.put(rows[is_later], firsts_here[is_later])
            known, places = np.unique(np.concatenate([known, unique]), return_index=True)
            known_rows = np.concatenate([known_rows, first_rows])[places]
    return firsts


class RowList:
    """Numbers of rows that a finding is about, in ascending order. All are counted, the first million are listed."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.count, self._last = 0, -1

    def add(self, number: int) -> None:
        """Add a row; the same row again counts once."""
        if self._last != number:
            self.count += 1
            if len(self.numbers) < MAX_LISTED:
                self.numbers.append(number)
        self._last = number

    def extend(self, numbers: Numbers | Sequence[int]) -> None:
        """Add rows, each once."""
        self.count += len(numbers)
        self.numbers.extend(numbers[: max(0, MAX_LISTED - len(self.numbers))])

    def split_at(self, first: int) -> tuple[Numbers, Numbers]:
        """Return the listed rows before `first`, and those from it on, counted from it."""
        numbers = np.array(self.numbers, dtype=np.int64)
        place = int(np.searchsorted(numbers, first))
        return numbers[:place], numbers[place:] - first
