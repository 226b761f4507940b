"""Remote files, read by byte range: the interface of a source, and a seekable file object."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePosixPath
from typing import Protocol

from backend.domain.data.parsing.text_formats import suffix_of
from backend.errors import InvalidInput

ANSWER_S = 6.0
"""Timeout of a source, in seconds."""
LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
"""Library of each kind of object store."""
MAX_FILES = 10_000
BLOCK_BYTES = 2**18


@dataclass(frozen=True)
class RemoteFile:
    """A file of a source: its path below the source, and a mark (ETag, hash) that changes with its content."""

    path: str
    bytes: int
    mark: str


@dataclass(frozen=True)
class RemoteListing:
    """Files of a source. `facts` go into the version's record: the commit, the licence."""

    label: str
    files: tuple[RemoteFile, ...]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)


class Remote(Protocol):
    """A remote source after its look-up."""

    @property
    def listing(self) -> RemoteListing:
        """Files of the source, fixed from then on."""

    def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`.

        Raises Unavailable if the source fails or the file has changed since the look-up.
        """


def readable(paths: Sequence[str]) -> list[str]:
    """Keep readable paths: known endings, not hidden, not outside the folder."""
    return [path for path in paths if _is_readable(path)]


def _is_readable(path: str) -> bool:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\x00" in path or any(part == ".." or part.startswith((".", "_")) for part in parts):
        return False
    try:
        suffix_of(path)
    except InvalidInput:
        return False
    return True


class RangedFile(io.RawIOBase):
    """A remote file as a seekable object, for readers that start at its end (Parquet). Wrap it in io.BufferedReader."""

    def __init__(self, remote: Remote, file: RemoteFile) -> None:
        self._remote, self._file, self._at = remote, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self._file.bytes)
        if end <= self._at:
            return 0
        data = self._remote.read(self._file, self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def library_errors(scheme: str) -> tuple[type[BaseException], ...]:
    """Return the exceptions that a store's library raises."""
    if scheme == "s3":
        return (OSError, import_module("botocore.exceptions").BotoCoreError, import_module("aiohttp").ClientError)
    http, auth = import_module("gcsfs.retry").HttpError, import_module("google.auth.exceptions").GoogleAuthError
    return (OSError, http, auth, import_module("aiohttp").ClientError)
