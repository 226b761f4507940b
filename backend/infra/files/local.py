"""Sources of rows on disk: a file, a folder of files, a zip, and the splits of a folder or zip written by
`save_to_disk` of `datasets`, without that library. Lists readable files, refuses dangerous ones, opens byte streams.
Nothing is extracted: members of a zip are streamed. Files left out (hidden files, links that lead out, unknown
endings) are listed with the reason.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from backend.domain.data.parsing.text_formats import suffix_of
from backend.domain.data.versions.saved_splits import SavedChoice, choose_splits
from backend.errors import InvalidInput, NotFound
from backend.infra.files.paths import is_text

MAX_MEMBERS = 100_000
MAX_UNPACKED_BYTES = 200 * 2**30
MAX_RATIO, RATIO_FROM_BYTES = 200, 64 * 2**20  # above 64 MB, a compression ratio of 200 is no text
RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_SAVED_BESIDE_ARROW = ("dataset_info.json", "state.json", "dataset_dict.json")
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Ignored:
    """A file of a source that is not read, with the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class Member:
    """One file to read: its name within the source, its `suffix`, its compression ("" or ".gz", ...), its bytes as
    stored. `entry` is the name within the zip `path`, if any.
    """

    name: str
    suffix: str
    packing: str
    bytes: int
    path: Path
    entry: str = ""
    mtime_ns: int = 0

    @contextmanager
    def open(self) -> Iterator[OpenedMember]:
        """Open the file, decompressed. Raises InvalidInput if it is damaged, encrypted or a compression bomb."""
        with _outer(self) as outer:
            yield OpenedMember(self, outer)


@dataclass(frozen=True)
class LocalListing:
    """The readable files of a source, in the order of their names, and those left out."""

    members: tuple[Member, ...]
    ignored: tuple[Ignored, ...] = ()
    is_single: bool = True

    @property
    def bytes(self) -> int:
        """Bytes of all members as stored (in a zip: unpacked)."""
        return sum(member.bytes for member in self.members)


class OpenedMember:
    """A stream of decompressed bytes; `position` is the number of the member's stored bytes read."""

    def __init__(self, member: Member, outer: IO[bytes]) -> None:
        self._member, self._outer = member, outer
        self._stream = _unpacked(outer, packing=member.packing)
        self._produced = 0

    @property
    def position(self) -> int:
        """Bytes of the member consumed so far, as stored."""
        return self._outer.tell()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; nothing at the end. Raises InvalidInput."""
        name = self._member.name
        try:
            data = self._stream.read(size)
        except (
            EOFError,
            zlib.error,
            lzma.LZMAError,
            gzip.BadGzipFile,
            zipfile.BadZipFile,
            OSError,
            NotImplementedError,
        ) as error:
            raise _damaged(name, error) from None
        self._produced += len(data)
        if (
            self._member.packing
            and self._produced > RATIO_FROM_BYTES
            and self._produced > MAX_RATIO * max(1, self.position)
        ):
            raise _bomb(name, self._produced, self.position)
        return data

    def read_into(self, view: memoryview) -> int:
        """Fill a buffer and return how many bytes; uncompressed files are read without a copy. Raises InvalidInput."""
        if not self._member.packing and isinstance(self._stream, BufferedReader):
            try:
                return self._stream.readinto(view)
            except OSError as error:
                raise _damaged(self._member.name, error) from None
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def skip(self, size: int) -> None:
        """Skip the next `size` bytes; fast if the file is not compressed."""
        if not self._member.packing and self._outer.seekable() and not self._member.entry:
            self._outer.seek(size, os.SEEK_CUR)
            return
        while size > 0 and (data := self.read(min(size, 2**20))):
            size -= len(data)


def _damaged(name: str, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"The compressed file {name!r} is damaged or cut off: {str(error)[:200]}.",
        remedy="Upload it again.",
        field="source",
    )


@contextmanager
def _outer(member: Member) -> Iterator[IO[bytes]]:
    if not member.entry:
        with member.path.open("rb") as file:
            yield file
        return
    with opened_zip(member.path) as archive, archive.open(member.entry) as entry:
        yield entry


def _unpacked(outer: IO[bytes], *, packing: str) -> BinaryIO:
    if packing == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=outer))
    if packing == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(outer))
    if packing == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(outer))
    if packing == ".zst":
        import pyarrow

        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(outer, mode="r"), "zstd"))
    return cast(BinaryIO, outer)


def _bomb(name: str, unpacked: int, packed: int) -> InvalidInput:
    return InvalidInput(
        f"{name!r} unpacks to {unpacked:,} bytes from {packed:,}: more than {MAX_RATIO} times, as only a compression"
        " bomb does.",
        remedy="Extract it yourself and import the file.",
        field="source",
    )


def list_source(path: Path) -> LocalListing:
    """List the readable files at a path: one file, the files of a folder and its subfolders, or those of a zip. Raises
    NotFound if it is missing, InvalidInput for an ending that can't be read, an empty file, a folder or zip without
    readable files, and a zip that is damaged, encrypted, a bomb, or whose names lead out of it.
    """
    if path.is_dir():
        members, ignored = _list_folder(path)
    elif not path.is_file():
        raise NotFound(f"There is no file {path}.", remedy="Upload it again.")
    elif path.name.lower().endswith(".zip"):
        members, ignored = _list_zip(path)
    else:
        return LocalListing((_file_member(path, name=path.name),))
    members, ignored = _skip_text_files(members, ignored)
    if not members:
        why = "; ".join(f"{item.file}: {item.reason}" for item in ignored[:3])
        raise InvalidInput(f"{path.name!r} holds no file that can be read{f' ({why})' if why else ''}.", field="source")
    return LocalListing(tuple(members), tuple(ignored), is_single=False)


def _file_member(path: Path, *, name: str) -> Member:
    suffix, packing = suffix_of(path.name)
    status = path.stat()
    if status.st_size == 0:
        raise InvalidInput(f"The file {name!r} is empty.", field="source")
    if not os.access(path, os.R_OK):
        raise InvalidInput(
            f"Roundhouse has no permission to read the file {name!r}.",
            remedy="Give it read permission.",
            field="source",
        )
    return Member(name, suffix, packing, status.st_size, path, mtime_ns=status.st_mtime_ns)


def _list_folder(root: Path) -> tuple[list[Member], list[Ignored]]:
    members: list[Member] = []
    ignored: list[Ignored] = []
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in sorted(folders):
            if name.startswith(".") or (here / name).is_symlink():
                reason = "hidden" if name.startswith(".") else "a link to a folder"
                ignored.append(Ignored((here / name).relative_to(root).as_posix() + "/", reason))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (here / name).is_symlink())
        for name in sorted(files):
            path = here / name
            shown = path.relative_to(root).as_posix()
            if name.startswith("."):
                ignored.append(Ignored(shown, "hidden"))
            elif not is_text(shown):
                ignored.append(Ignored(shown.encode("utf-8", "backslashreplace").decode(), "a name that is not UTF-8"))
            # `resolve` raises for a link to itself
            elif path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                ignored.append(Ignored(shown, "a link that leads out of the folder"))
            elif not path.is_file():
                ignored.append(Ignored(shown, "not a plain file"))
            else:
                _add(members, ignored, shown, lambda path=path, shown=shown: _file_member(path, name=shown))
        if len(members) + len(ignored) > MAX_MEMBERS:
            raise InvalidInput(
                f"The folder {root.name!r} holds more than {MAX_MEMBERS:,} files.", remedy="Join them.", field="source"
            )
    return sorted(members, key=lambda member: member.name), ignored


def _add(members: list[Member], ignored: list[Ignored], name: str, make: object) -> None:
    """Add a member unless its ending is unknown or it is empty."""
    try:
        if name.lower().endswith(".zip"):
            raise InvalidInput("a zip within a folder or a zip is not opened")
        members.append(make())  # type: ignore[operator]
    except InvalidInput as error:
        ignored.append(Ignored(name, error.message))


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip. Raises InvalidInput where it turns out to be damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The zip {path.name!r} is damaged: {str(error)[:200]}.", remedy="Upload it again.", field="source"
        ) from None


def _list_zip(path: Path) -> tuple[list[Member], list[Ignored]]:
    status = path.stat()
    with opened_zip(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _check_zip(path, entries, packed=status.st_size)
    members: list[Member] = []
    ignored: list[Ignored] = []
    for entry in sorted(entries, key=lambda entry: entry.filename):
        name = entry.filename
        if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts):
            ignored.append(Ignored(name, "hidden"))
        else:
            _add(members, ignored, name, lambda entry=entry: _zip_member(path, entry, mtime_ns=status.st_mtime_ns))
    return members, ignored


def _zip_member(path: Path, entry: zipfile.ZipInfo, *, mtime_ns: int) -> Member:
    suffix, packing = suffix_of(entry.filename)
    if entry.file_size == 0:
        raise InvalidInput("empty")
    return Member(entry.filename, suffix, packing, entry.file_size, path, entry=entry.filename, mtime_ns=mtime_ns)


def _check_zip(path: Path, entries: list[zipfile.ZipInfo], *, packed: int) -> None:
    """Refuse a dangerous zip by its index. Raises InvalidInput naming the member at fault."""
    name = path.name
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or (len(entry.filename) > 1 and entry.filename[1] == ":"):
            raise InvalidInput(
                f"The zip {name!r} holds {entry.filename[:200]!r}, a path that leads out of it.",
                remedy="Create the zip again without it.",
                field="source",
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InvalidInput(
                f"The zip {name!r} holds the link {entry.filename[:200]!r}.",
                remedy="Pack the file itself.",
                field="source",
            )
        if entry.flag_bits & _ENCRYPTED:
            raise InvalidInput(
                f"{entry.filename[:200]!r} in {name!r} is encrypted.",
                remedy="Unpack it with its password first.",
                field="source",
            )
        if entry.file_size > RATIO_FROM_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise _bomb(f"{name}: {entry.filename[:200]}", entry.file_size, entry.compress_size)
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED_BYTES or len(entries) > MAX_MEMBERS:
        raise InvalidInput(
            f"The zip {name!r} unpacks to {total:,} bytes in {len(entries):,} files; the limits are"
            f" {MAX_UNPACKED_BYTES:,} and {MAX_MEMBERS:,}.",
            remedy="Split it.",
            field="source",
        )
    if total > RATIO_FROM_BYTES and (
        total > MAX_RATIO * packed or sum(entry.compress_size for entry in entries) > packed
    ):
        raise _bomb(name, total, packed)  # small members, or members that share their bytes


def _skip_text_files(members: list[Member], ignored: list[Ignored]) -> tuple[list[Member], list[Ignored]]:
    """Leave out text files in a folder of data files (a readme, a licence), and the metadata that `datasets` writes
    with .arrow files.
    """
    if any(member.suffix == ".arrow" for member in members):
        about = [member for member in members if PurePosixPath(member.name).name in _SAVED_BESIDE_ARROW]
        members = [member for member in members if member not in about]
        ignored = [*ignored, *(Ignored(member.name, "describes the .arrow files") for member in about)]
    if any(member.suffix in RECORDS for member in members):
        words = [member for member in members if member.suffix not in RECORDS]
        members = [member for member in members if member.suffix in RECORDS]
        ignored = [*ignored, *(Ignored(member.name, "text beside data files") for member in words)]
    return members, ignored


DICT_FILE, STATE_FILE, INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"
MAX_RECORD_BYTES = 64 * 2**20
Place = Path | zipfile.Path


@dataclass(frozen=True)
class SavedSplit:
    """One split: the folder `path`, or the entries of the zip `path` whose names begin with `prefix`."""

    path: Path
    prefix: str | None = None

    def files(self) -> LocalListing:
        """Return its data files, named within the split. Raises what `list_source` raises."""
        listing = list_source(self.path)
        if self.prefix is None:
            return listing
        inside = [member for member in listing.members if member.entry.startswith(self.prefix)]
        return LocalListing(
            tuple(replace(member, name=member.name[len(self.prefix) :]) for member in inside), is_single=False
        )

    def unpack(self, folder: Path) -> None:
        """Write the files of a split in a zip to a folder. Raises InvalidInput where one is damaged."""
        assert self.prefix is not None
        with opened_zip(self.path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removeprefix(self.prefix)
                if entry.filename.startswith(self.prefix) and name and "/" not in name:
                    with archive.open(entry) as packed, (folder / name).open("wb") as file:
                        shutil.copyfileobj(packed, file, 2**20)


def saved_splits(path: Path) -> dict[str, SavedSplit] | None:
    """Return split -> its place in a saved dataset, in the order of its record; None for any other path.

    Raises InvalidInput if the record can't be read, a split's folder or file is missing or outside the folder, or the
    zip is dangerous.
    """
    if path.is_dir():
        names = _split_names(path)
        return None if names is None else {name: SavedSplit(path / folder) for name, folder in names.items()}
    if path.suffix.lower() != ".zip" or not path.is_file():
        return None
    with opened_zip(path) as archive:
        place = _record_in(archive)
        if place is None:
            return None
        list_source(path)  # refuses what is dangerous before anything is unpacked
        names = _split_names(zipfile.Path(archive, at=place))
    return (
        None
        if names is None
        else {name: SavedSplit(path, f"{place}{folder}/" if folder else place) for name, folder in names.items()}
    )


def choose_saved(path: Path, split: str | None) -> tuple[SavedChoice, dict[str, SavedSplit]] | None:
    """Return the splits to import of a saved dataset, with their places; None for any other path. Raises InvalidInput,
    NotFound.
    """
    splits = saved_splits(path)
    return None if splits is None else (choose_splits(list(splits), split, name=path.name), splits)


def _record_in(archive: zipfile.ZipFile) -> str | None:
    """Return the folder in a zip that holds the one record of a saved dataset: "" or "name/"."""
    names = [PurePosixPath(name) for name in archive.namelist()]
    for record in (DICT_FILE, STATE_FILE):
        parents = [name.parent for name in names if name.name == record and len(name.parts) <= 2]
        if len(parents) == 1:
            return "" if parents[0] == PurePosixPath() else f"{parents[0]}/"
    return None


def _split_names(root: Place) -> dict[str, str] | None:
    """Return split -> its folder within `root` ("" is `root` itself); None where no record is."""
    if (root / DICT_FILE).is_file():
        names = _read(root, DICT_FILE).get("splits")
        if not isinstance(names, list) or not names:
            raise _broken(root, DICT_FILE, "it lists no splits")
        for name in map(str, names):
            if not _is_inside(root, name):  # `datasets` would follow any path
                raise _broken(root, DICT_FILE, f"its split {name!r} is not a folder in it")
            _check_files(root / name)
        return {str(name): str(name) for name in names}
    if (root / STATE_FILE).is_file() and (root / INFO_FILE).is_file():
        _check_files(root)
        return {str(_read(root, STATE_FILE).get("_split") or "train"): ""}
    return None


def _check_files(folder: Place) -> None:
    files = _read(folder, STATE_FILE).get("_data_files")
    names = (
        [str(entry.get("filename", "")) for entry in files if isinstance(entry, dict)]
        if isinstance(files, list)
        else []
    )
    for name in names:
        if not _is_inside(folder, name) or not (folder / name).is_file():
            raise _broken(folder, STATE_FILE, f"its file {name!r} is missing")


def _is_inside(folder: Place, name: str) -> bool:
    """Return whether a name out of a record stands for an entry right in the folder, links on disk followed."""
    if PurePosixPath(name).name != name or "\0" in name:
        return False
    return not isinstance(folder, Path) or (folder / name).resolve().parent == folder.resolve()


def _read(folder: Place, name: str) -> dict[str, object]:
    try:
        with (folder / name).open("rb") as file:
            text = file.read(MAX_RECORD_BYTES + 1)
        if len(text) > MAX_RECORD_BYTES:
            raise _broken(folder, name, f"it has more than {MAX_RECORD_BYTES:,} bytes")
        value = json.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(folder, name, str(error)[:100]) from None
    if not isinstance(value, dict):
        raise _broken(folder, name, "it holds no object")
    return value


def _broken(folder: Place, file: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The saved dataset {folder.name!r} can't be read: {file}: {why}.",
        remedy="Save it again with save_to_disk.",
        field="source",
    )
