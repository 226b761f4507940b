"""The objects of a store of artifacts: in a folder that machines share (`file://`), in S3 or in Google Cloud Storage.

Each call ends within the time that it is given, whatever the store does: the libraries alone wait for minutes on a
server that accepts connections and is silent.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from backend.errors import InvalidInput, NotFound, Unavailable, first_line, require_library
from backend.infra.files.remote import LIBRARIES, library_errors

SLACK_S = 2.0
"""Time for a call to be given up after its time has passed."""
MARK = ".roundhouse-store"
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of file systems without hard links, as of SMB and some FUSE. There a file beside keeps two machines from
taking the same name at once.
"""
OUTAGE_S = 10.0
CLAIM_S = 60.0
"""Age at which the machine that made such a file must have died between two steps that take milliseconds."""
_ADDRESS = re.compile(r"(s3|gs)://[a-zA-Z0-9][\w.-]{1,220}(/[\w./=+-]*)?")


Span = tuple[int, int | None]
WHOLE: Span = (0, None)


class Objects(Protocol):
    """Named bytes. Methods raise Unavailable if the store does not answer in time, or refuses."""

    bytes_read: int

    def read(self, key: str, *, within_s: float, span: Span = WHOLE) -> bytes:
        """Return an object, or its bytes from the first number of `span` to before the second. Raises NotFound."""

    def write(self, key: str, data: bytes, *, within_s: float, is_new: bool = False) -> bool:
        """Write an object, whole or not at all. With `is_new` an object of this name stays, and False is returned."""

    def sizes(self, folder: str, *, within_s: float) -> dict[str, int]:
        """Return the keys below a folder with their bytes."""

    def delete(self, keys: list[str], *, within_s: float) -> None:
        """Delete objects; those that are gone already are no error."""


@dataclass(frozen=True)
class StoreKeys:
    """Keys and endpoint of a store; None: as the vendor's library finds them in the environment."""

    key: str | None = None
    secret: str | None = None
    endpoint: str | None = None

    def __repr__(self) -> str:
        return "StoreKeys(...)"


def open_objects(url: str, keys: StoreKeys | None = None, *, memory: Path | None = None) -> Objects:
    """Return the objects below an address; in the folder `memory` this machine notes which mounts it has used.

    Raises InvalidInput for an address of another form, Unavailable without the library.
    """
    address = urlsplit(url)
    if address.scheme == "file" and not address.netloc and len(address.path) > 1:
        return FolderObjects(Path(unquote(address.path)), memory=memory)
    if _ADDRESS.fullmatch(url) is None:
        raise InvalidInput(
            f"ROUNDHOUSE_ARTIFACTS is {re.sub('//[^@]*@', '//...@', url)[:120]!r}.",
            remedy="Write it as s3://bucket/prefix, gs://bucket/prefix or file:///shared/folder, without keys.",
        )
    require_library(LIBRARIES[address.scheme], extra="cloud", needed_for=f"A store at {address.scheme}://")
    return CloudObjects(address.scheme, f"{address.netloc}{address.path}".rstrip("/"), keys or StoreKeys())


class FolderObjects:
    """Objects as files of a folder that all machines mount.

    The first to write marks the folder. A machine that has seen the mark takes a folder without it for a mount that is
    missing, and neither fills the disk below it nor believes that everything was deleted.
    """

    def __init__(self, root: Path, *, memory: Path | None = None) -> None:
        self.root = root
        self.bytes_read = 0
        name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
        self._seen = memory / f"mounted-{name}" if memory is not None else None

    def _require_mount(self, *, is_made: bool = False) -> None:
        mark = self.root / MARK
        if not mark.exists():
            if self._seen is not None and self._seen.exists():
                raise Unavailable(
                    f"The store {self.root} is not mounted: its file {MARK} is missing.",
                    remedy=f"Mount it. If it was emptied on purpose, delete {self._seen}.",
                )
            if not is_made:
                return
            self.root.mkdir(parents=True, exist_ok=True)
            mark.touch()
        if self._seen is not None and not self._seen.exists():
            self._seen.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._seen.touch()

    def read(self, key: str, *, within_s: float, span: Span = WHOLE) -> bytes:
        """Return a file's bytes."""
        begin, end = span
        try:
            with (self.root / key).open("rb") as file:
                file.seek(begin)
                data = file.read(-1 if end is None else end - begin)
        except (FileNotFoundError, NotADirectoryError) as error:
            self._require_mount()
            raise NotFound(f"{self.root} holds no {key}.") from error
        except OSError as error:
            raise _unavailable(str(self.root), error) from error
        self.bytes_read += len(data)
        return data

    def write(self, key: str, data: bytes, *, within_s: float, is_new: bool = False) -> bool:
        """Write beside, then give it its name."""
        path = self.root / key
        beside = path.with_name(f".{uuid4().hex}.partial")
        try:
            self._require_mount(is_made=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not is_new:
                beside.replace(path)
                return True
            return _name_first(beside, path)
        except OSError as error:
            raise _unavailable(str(self.root), error) from error
        finally:
            with suppress(OSError):
                beside.unlink()

    def sizes(self, folder: str, *, within_s: float) -> dict[str, int]:
        """List files, without those that are being written."""
        sizes = {}
        try:
            self._require_mount()
            for path in (self.root / folder).rglob("*"):
                if not path.name.endswith(".partial") and path.is_file():
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        sizes[path.relative_to(self.root).as_posix()] = path.stat().st_size
        except OSError as error:
            raise _unavailable(str(self.root), error) from error
        return sizes

    def delete(self, keys: list[str], *, within_s: float) -> None:
        """Delete files, and folders that are empty then."""
        folders = {(self.root / key).parent for key in keys}
        try:
            self._require_mount()
            for key in keys:
                (self.root / key).unlink(missing_ok=True)
            for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
                if folder.is_dir() and all(path.name.endswith(".partial") for path in folder.rglob("*")):
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise _unavailable(str(self.root), error) from error


def _name_first(beside: Path, path: Path) -> bool:
    """Give a written file a name that no other has; return False if one has it already."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    else:
        return True
    claim = path.with_name(f".{path.name}.partial")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        if beside.stat().st_mtime - claim.stat().st_mtime > CLAIM_S:  # both times are the file server's
            claim.unlink(missing_ok=True)
        raise
    try:
        if path.exists():
            return False
        beside.replace(path)
        return True
    finally:
        claim.unlink(missing_ok=True)


class CloudObjects:
    """Objects below a prefix of a bucket."""

    def __init__(self, scheme: str, root: str, keys: StoreKeys) -> None:
        self.scheme, self.root = scheme, root
        self.bytes_read = 0
        self._keys = keys
        self._opened: Any = None

    def read(self, key: str, *, within_s: float, span: Span = WHOLE) -> bytes:
        """Return an object."""
        begin, end = (None, None) if span == WHOLE else span
        try:
            data: bytes = self._ask(self._filesystem()._cat_file(f"{self.root}/{key}", start=begin, end=end), within_s)
        except FileNotFoundError as error:
            raise NotFound(f"{self.scheme}://{self.root} holds no {key}.") from error
        self.bytes_read += len(data)
        return data

    def write(self, key: str, data: bytes, *, within_s: float, is_new: bool = False) -> bool:
        """Put an object in one request."""
        mode = "create" if is_new else "overwrite"
        try:
            self._ask(self._filesystem()._pipe_file(f"{self.root}/{key}", data, mode=mode), within_s)
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise Unavailable(
                f"There is no bucket {self.root.partition('/')[0]}.",
                remedy="Make it, or correct ROUNDHOUSE_ARTIFACTS and ROUNDHOUSE_ARTIFACTS_ENDPOINT.",
            ) from error
        except Unavailable:  # stores name a failed precondition differently
            if is_new and self._ask(self._filesystem()._exists(f"{self.root}/{key}"), within_s):
                return False
            raise
        return True

    def sizes(self, folder: str, *, within_s: float) -> dict[str, int]:
        """List objects."""
        try:
            listed = self._ask(self._filesystem()._find(f"{self.root}/{folder}", detail=True), within_s)
        except FileNotFoundError:
            return {}
        below = f"{self.root}/{folder}/"
        return {  # some stores list folders too
            path.removeprefix(f"{self.root}/"): int(facts["size"] or 0)
            for path, facts in listed.items()
            if path.startswith(below) and not path.endswith("/") and facts["type"] == "file"
        }

    def delete(self, keys: list[str], *, within_s: float) -> None:
        """Delete objects in few requests."""
        try:
            self._ask(self._filesystem()._rm([f"{self.root}/{key}" for key in keys]), within_s)
        except FileNotFoundError:
            return

    def _filesystem(self) -> Any:
        if self._opened is None:
            module = import_module(LIBRARIES[self.scheme])
            options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
            if self.scheme == "s3":
                config = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 1}}
                self._opened = module.S3FileSystem(
                    key=self._keys.key,
                    secret=self._keys.secret,
                    endpoint_url=self._keys.endpoint,
                    config_kwargs=config,
                    **options,
                )
            else:
                self._opened = module.GCSFileSystem(endpoint_url=self._keys.endpoint, timeout=60, **options)
        return self._opened

    def _ask(self, call: Coroutine[Any, Any, Any], within_s: float) -> Any:
        """Return what a call of the library answers; its connection is closed when its time has passed."""
        limited = asyncio.wait_for(call, within_s)
        future = asyncio.run_coroutine_threadsafe(limited, self._filesystem().loop)
        try:
            return future.result(within_s + SLACK_S)
        except (FileNotFoundError, FileExistsError):
            raise
        except TimeoutError as error:
            future.cancel()
            raise Unavailable(
                f"The store {self.scheme}://{self.root} did not answer within {within_s:.0f} s.",
                remedy="Nothing is lost: what is to be uploaded waits on this machine.",
            ) from error
        except library_errors(self.scheme) as error:
            raise _unavailable(f"{self.scheme}://{self.root}", error) from error


def _unavailable(where: str, error: BaseException) -> Unavailable:
    return Unavailable(
        f"The store {where} can't be used: {first_line(error)}.",
        remedy="Check the network, and keys and endpoint in the environment of pages and workers.",
    )


class RememberedOutage:
    """Remembers for `OUTAGE_S` that a store did not answer, so that a page asks once and not for each part of it."""

    def __init__(self) -> None:
        self._until = 0.0

    def raise_if_down(self) -> None:
        """Raise Unavailable while the store is taken to be down."""
        if time.monotonic() < self._until:
            raise Unavailable(
                "The store of artifacts does not answer.", remedy="It is asked again in a few seconds; reload then."
            )

    def note_failure(self) -> None:
        """Take the store to be down for a while."""
        self._until = time.monotonic() + OUTAGE_S
