"""The manifest of a folder in a store: its files with size and SHA-256. It is written last, so a folder without a
manifest does not exist for other machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator

from backend.domain.validation import ReadRecord
from backend.errors import Conflict

PIECE_BYTES = 32 * 2**20
"""Files are stored in pieces of this size, each under the name of its SHA-256: a broken transfer continues with the
next piece, and a late writer overwrites nothing.
"""
MANIFEST = "manifest.json"
PIECES = "pieces"
LARGEST_PIECE = 2**30
LARGEST_FILE = 2**44
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DamagedFolder(Conflict):
    """A folder of the store whose bytes are not those of its manifest."""


class StoredFile(ReadRecord):
    """A file: its path in the folder, size, SHA-256 and the SHA-256 of its pieces."""

    path: str
    size: int = Field(ge=0, le=LARGEST_FILE)
    sha256: Sha256
    pieces: tuple[Sha256, ...]

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        names = PurePosixPath(path).parts
        if not names or names[0] == "/" or ".." in names or "\x00" in path or "/".join(names) != path:
            raise ValueError("leaves its folder")
        return path

    def pieces_of(self, begin: int, end: int, piece_bytes: int) -> Iterator[tuple[str, int, int]]:
        """Return the SHA-256 of each piece that has bytes from `begin` to before `end`, and where they lie in it."""
        for number in range(begin // piece_bytes, -(-end // piece_bytes)):
            start = number * piece_bytes
            yield self.pieces[number], max(0, begin - start), min(piece_bytes, end - start)

    def spans(self, piece_bytes: int) -> Iterator[tuple[int, int, str]]:
        """Return offset, length and SHA-256 of each piece."""
        for number, digest in enumerate(self.pieces):
            start = number * piece_bytes
            yield start, min(piece_bytes, self.size - start), digest


class FolderManifest(ReadRecord):
    """The files of a folder."""

    folder: str
    piece_bytes: int = Field(default=PIECE_BYTES, gt=0, le=LARGEST_PIECE)
    files: tuple[StoredFile, ...]

    @model_validator(mode="after")
    def _has_all_pieces(self) -> FolderManifest:
        paths = {file.path for file in self.files}
        above = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        if len(paths) < len(self.files) or paths & above:
            raise ValueError("two files have one place")
        for file in self.files:
            if len(file.pieces) != -(-file.size // self.piece_bytes):
                raise ValueError(f"{file.path} has {file.size} bytes in {len(file.pieces)} pieces")
        return self

    def dump(self) -> bytes:
        """Return the stored form."""
        return self.model_dump_json().encode()


def read_manifest(data: bytes, *, folder: str) -> FolderManifest:
    """Read a stored manifest. Raises DamagedFolder for anything else, and for the manifest of another folder."""
    try:
        manifest = FolderManifest.model_validate_json(data)
    except ValidationError as error:
        raise DamagedFolder(f"The manifest of {folder} in the store is damaged.", remedy=REMEDY) from error
    if manifest.folder != folder:
        raise DamagedFolder(f"The store holds the manifest of {manifest.folder} under {folder}.", remedy=REMEDY)
    return manifest


REMEDY = "Restore the store's folder from a backup, or make the data again."


def list_exchanged(folder: Path, *, deep: bool) -> list[Path]:
    """Return the files of a folder that are exchanged: none that is hidden or being written, no link out of it."""
    files = sorted(path for path in (folder.rglob("*") if deep else folder.glob("*")) if path.is_file())
    root = folder.resolve()
    return [
        path
        for path in files
        if not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.resolve().is_relative_to(root)
    ]


def iter_pieces(path: Path, *, piece_bytes: int) -> Iterator[bytes]:
    """Read a file in pieces."""
    with path.open("rb") as file:
        while piece := file.read(piece_bytes):
            yield piece


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()
