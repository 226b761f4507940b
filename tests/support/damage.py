"""Damage a SQLite file as disks and copies do."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE_BYTES = 4096
Damage = Callable[[Path], None]


def overwrite_pages(path: Path) -> None:
    """Overwrite 600 bytes of every tenth page, as of the third."""
    content = bytearray(path.read_bytes())
    noise = random.Random(0)
    for start in range(2 * PAGE_BYTES, len(content), 10 * PAGE_BYTES):
        content[start : start + 600] = noise.randbytes(600)
    path.write_bytes(content)


def overwrite_table(path: Path, table: str = "messages") -> None:
    """Overwrite 600 bytes of the first page of one table."""
    connection = sqlite3.connect(path)
    (page,) = connection.execute("select rootpage from sqlite_schema where name = ?", (table,)).fetchone()
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(random.Random(0).randbytes(600))


def cut_off(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_text(path: Path) -> None:
    """Leave a file that is no database."""
    path.write_text("no database\n" * 1000)


FAR_DAMAGES = [
    pytest.param(overwrite_pages, id="overwritten"),
    pytest.param(cut_off, id="truncated"),
    pytest.param(replace_by_text, id="not-a-database"),
]
"""Damages that every command meets."""
DAMAGES = [pytest.param(overwrite_table, id="one-page"), *FAR_DAMAGES]
