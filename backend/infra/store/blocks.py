"""Blocks of files of a store that are too large to be copied: fetched in the order in which they will be read, and left
on this machine up to a number of bytes.
"""

from __future__ import annotations

import os
import threading
import zlib
from array import array
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from backend.errors import Unavailable
from backend.infra.store.folders import REMEDY, DamagedFolder, UncopiedFile

AT_ONCE = 8
"""Requests under way."""
REQUEST_BYTES = 1 << 22
"""Blocks that follow each other are fetched by requests of up to this size."""


class BlockCache:
    """Blocks of `block_bytes` of any number of files, each a file of its own, of at most `limit_bytes` in all.

    Those used longest ago leave first. Its folder is shared by all processes of a machine.
    """

    def __init__(self, root: Path, *, block_bytes: int, limit_bytes: int) -> None:
        self._root, self._block_bytes = root, block_bytes
        self.limit = max(2, limit_bytes // block_bytes)
        self._count = sum(1 for _ in self._stored())

    def folder(self, name: str) -> Path:
        """Return the folder of a file's blocks."""
        path = self._root / name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    @property
    def batch(self) -> int:
        """Blocks that are fetched together."""
        return max(1, min(AT_ONCE * REQUEST_BYTES // self._block_bytes, self.limit // 8))

    def missing(self, name: str, numbers: Sequence[int]) -> list[int]:
        """Return those of the blocks that are not here, in order; note that the others are used."""
        folder, missing = self.folder(name), []
        for number in numbers:
            try:
                os.utime(folder / str(number))
            except FileNotFoundError:
                missing.append(number)
        return missing

    def fetch(
        self, name: str, file: UncopiedFile, sums: array[int], numbers: Sequence[int], *, protected: Collection[Path]
    ) -> None:
        """Fetch blocks, each checked against its CRC-32, those needed first first. Blocks of `protected` stay.

        Raises Unavailable, DamagedFolder, OSError if the disk is full.
        """
        folder = self.folder(name)
        self._make_room(len(numbers), {*protected, *(folder / str(number) for number in numbers)})
        self._count += len(numbers)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda span: self._fetch(folder, file, sums, span), self._spans(numbers)))

    def _spans(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Join blocks that follow each other; return the first and the number behind the last of each request."""
        spans: list[tuple[int, int]] = []
        for number in sorted(numbers):
            first, last = spans[-1] if spans else (0, -1)
            if number == last and (number + 1 - first) * self._block_bytes <= REQUEST_BYTES:
                spans[-1] = (first, number + 1)
            else:
                spans.append((number, number + 1))
        place = {number: at for at, number in enumerate(numbers)}
        return sorted(spans, key=lambda span: min(place[number] for number in range(*span)))

    def _fetch(self, folder: Path, file: UncopiedFile, sums: array[int], span: tuple[int, int]) -> None:
        size = self._block_bytes
        data = file.read(span[0] * size, min(span[1] * size, file.file.size))
        for at, number in enumerate(range(*span)):
            block = data[at * size : (at + 1) * size]
            if zlib.crc32(block) != sums[number]:
                raise DamagedFolder(
                    f"The bytes of {file.folder}/{file.file.path} in the store are not those that were made.",
                    remedy=REMEDY,
                )
            beside = folder / f".{number}-{os.getpid()}-{threading.get_ident()}"
            beside.write_bytes(block)
            beside.replace(folder / str(number))

    def _make_room(self, needed: int, protected: Collection[Path]) -> None:
        """Remove the blocks used longest ago until `needed` more fit; of `protected` only if no others are left."""
        if self._count + needed <= self.limit:
            return
        stored = sorted(self._stored(), key=lambda entry: (Path(entry.path) in protected, _used_at(entry)))
        excess = len(stored) + needed - self.limit + self.limit // 16
        for entry in stored[: max(0, excess)]:
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
        self._count = len(stored) - min(len(stored), max(0, excess))

    def _stored(self) -> Iterator[os.DirEntry[str]]:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in os.scandir(self._root):
            for entry in os.scandir(folder):
                if not entry.name.startswith("."):
                    yield entry


def _used_at(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def read_sums(file: Path) -> array[int]:
    """Read the CRC-32 of each block. Raises Unavailable if the file is gone."""
    sums = array("I")
    try:
        sums.frombytes(file.read_bytes())
    except FileNotFoundError as error:
        raise Unavailable(f"{file} was removed while its run reads it.") from error
    return sums
