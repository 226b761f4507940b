"""Bring the beginning of a split from the store, for a job that reads its first rows alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from backend.domain.jobs.split_heads import BEGINNING
from backend.infra.store.folders import REMEDY, DamagedFolder, UncopiedFile

HEAD_BYTES = 128 * 2**20
"""More than what a probe reads of rows, with the row group in which it stops."""
LONGEST_DIRECTORY = 2**30
REQUEST_BYTES = 2**22
FOOTER_BYTES = 8
"""At the end of a Parquet file: the length of the directory of row groups before them, in four bytes, and a mark."""


def bring_head(file: UncopiedFile, folder: Path, *, check: Callable[[], None], num_bytes: int = HEAD_BYTES) -> None:
    """Write the beginning of a Parquet file in the store, and its directory, to a folder. Nothing is read of it
    here but the directory's length: the job, which has no keys, reads the rest.

    `check` is called between requests and may raise. Raises Unavailable, DamagedFolder.
    """
    size, target = file.file.size, folder / Path(file.file.path).name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    beginning = min(size, num_bytes)
    length = int.from_bytes(file.read(max(0, size - FOOTER_BYTES), size)[:4], "little")
    if length > LONGEST_DIRECTORY:
        raise DamagedFolder(f"{file.folder}/{file.file.path} in the store is not a Parquet file.", remedy=REMEDY)
    tail = max(beginning, size - FOOTER_BYTES - length)
    with target.open("wb") as output:
        for first, last in ((0, beginning), (tail, size)):
            for begin in range(first, last, REQUEST_BYTES):
                check()
                os.pwrite(output.fileno(), file.read(begin, min(begin + REQUEST_BYTES, last)), begin)
        os.ftruncate(output.fileno(), size)
    (folder / BEGINNING).write_text(str(beginning))
