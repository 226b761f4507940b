"""DATA_PATH: the operator's folder of data files for import. Read folder by folder, never recursively as a whole."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.domain.data.parsing.text_formats import suffix_of
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.infra.files.paths import find_path, is_text
from backend.services.context import Context, Person

MAX_ENTRIES = 2000
MAX_FOUND = 200
SEARCH_S = 1.5
"""Time limit of a search, after which it returns the matches so far."""


@dataclass(frozen=True)
class DataEntry:
    """A folder, or a file that rows can be read from. `path` is below DATA_PATH; a folder's `bytes` are 0."""

    path: str
    is_folder: bool
    bytes: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class FolderView:
    """Entries of one folder, folders first. `left_out`: files of other endings and links that lead out; `more`: there
    are over 2,000.
    """

    path: str
    entries: tuple[DataEntry, ...]
    left_out: int
    more: bool

    @property
    def files(self) -> tuple[DataEntry, ...]:
        """The files among the entries."""
        return tuple(entry for entry in self.entries if not entry.is_folder)


def browse_data_folder(ctx: Context, folder: str = "") -> FolderView | None:
    """Return the entries of a folder below DATA_PATH; None if DATA_PATH is not set.

    Raises NotAllowed for a path or link that leads out of DATA_PATH, NotFound if it is not a folder.
    """
    if ctx.data_path is None or not ctx.data_path.is_dir():
        return None
    place = data_file(ctx, folder)
    if not place.is_dir():
        raise NotFound(f"There is no folder {folder!r} among the data files.", remedy="Choose another.", field="folder")
    root = str(ctx.data_path.resolve())
    entries: list[DataEntry] = []
    left_out = 0
    for entry in _scan(place):
        offered = _entry(root, entry)
        if offered is None:
            left_out += not entry.name.startswith(".")
        elif len(entries) <= MAX_ENTRIES:
            entries.append(offered)
    entries.sort(key=lambda entry: (not entry.is_folder, entry.name.lower()))
    return FolderView(folder.strip("/"), tuple(entries[:MAX_ENTRIES]), left_out, len(entries) > MAX_ENTRIES)


def search_data_folder(ctx: Context, text: str, *, folder: str = "") -> tuple[list[DataEntry], bool]:
    """Return files below a folder whose path contains a text, nearest first, and whether all were searched."""
    if ctx.data_path is None or not text.strip():
        return [], True
    root = str(ctx.data_path.resolve())
    text_lower, entries = text.strip().lower(), list[DataEntry]()
    waiting, end = deque([data_file(ctx, folder)]), time.monotonic() + SEARCH_S
    while waiting:
        for entry in _scan(waiting.popleft()):
            if entry.is_dir(follow_symlinks=False):  # links to folders are not followed: they may form a cycle
                if not entry.name.startswith("."):
                    waiting.append(Path(entry.path))
            elif (
                text_lower in entry.path[len(root) + 1 :].lower()
                and (offered := _entry(root, entry)) is not None
                and not offered.is_folder
            ):
                entries.append(offered)
        if len(entries) >= MAX_FOUND or time.monotonic() > end:
            return entries[:MAX_FOUND], not waiting and len(entries) <= MAX_FOUND
    return entries, True


def data_file(ctx: Context, path: str) -> Path:
    """Return the resolved path of a file below DATA_PATH.

    Raises NotAllowed if it, or a link in it, leads out; NotFound without DATA_PATH.
    """
    if ctx.data_path is None:
        raise NotFound("DATA_PATH is not set.", remedy="Set DATA_PATH, or upload the file.", field="file")
    root = ctx.data_path.resolve()
    full = Path(os.path.realpath(root / path))  # `resolve` raises for a link to itself
    if not full.is_relative_to(root):
        raise NotAllowed(
            f"{path!r} leads out of the folder of data files.",
            remedy="Put the file itself under DATA_PATH, or upload it.",
        )
    return full


def local_source(ctx: Context, source: Path, *, person: Person) -> Path:
    """Return the resolved path of a local file or folder to import. It is read in place.

    Raises NotFound, and NotAllowed for a path outside DATA_PATH when an account asks.
    """
    path = find_path(source)
    full = path.resolve() if path is not None else None
    inside = full is not None and ctx.data_path is not None and full.is_relative_to(ctx.data_path.resolve())
    if person.id is not None and not inside:
        raise NotAllowed(
            f"{source} lies outside the folder of data files.", remedy="Put it under DATA_PATH, or upload it."
        )
    if full is None:
        raise NotFound(f"There is no file {source}.", remedy="Check the path.", field="file")
    return full


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:  # removed or unreadable by now
        return


def _entry(root: str, entry: os.DirEntry[str]) -> DataEntry | None:
    """Return an entry of a folder; None if hidden, of another ending, broken, not text, or a link that leads out."""
    if entry.name.startswith(".") or not is_text(entry.path):
        return None
    try:
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            return None
        path = entry.path[len(root) + 1 :]
        if entry.is_dir():
            return DataEntry(path, True, 0)
        suffix_of(entry.name)
        return DataEntry(path, False, entry.stat().st_size) if entry.is_file() else None
    except (OSError, InvalidInput):
        return None
