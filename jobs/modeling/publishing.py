"""Publish a finished folder, of a checkpoint or a tokenizer, or a short text. Imports no torch: a job that needs
none starts in a quarter of the time.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

from backend.errors import JobFailed
from jobs.reporter import Reporter


def publish_folder(partial: Path, folder: Path) -> None:
    """Sync a finished folder to disk, then rename it to its final name."""
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    replaced = None
    if folder.exists():
        replaced = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.replaced"
        folder.rename(replaced)
    partial.rename(folder)
    sync(folder.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def publish_once(partial: Path, folder: Path) -> None:
    """Sync a finished folder to disk, then give it its final name, unless another process has published its own."""
    for path in partial.rglob("*"):
        if path.is_file():
            sync(path)
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def publish_text(file: Path, text: str) -> None:
    """Write a text beside a file, then give it the file's name: a reader never sees half of it."""
    partial = file.with_name(f".{file.name}-{uuid.uuid4().hex[:12]}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_stopped_export(reporter: Reporter) -> None:
    """Raise JobFailed if an export is asked to stop."""
    if reporter.should_stop() is not None:
        raise JobFailed("The export was stopped on request.", remedy="No files were kept; export again to retry.")
