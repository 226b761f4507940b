"""Files in S3 or Google Cloud Storage, by fsspec. Keys and endpoints come from the environment alone, as in the
vendors' own tools. Only `s3://` and `gs://` are supported. Plain `https://` is left out on purpose: an import could
make a worker fetch from internal addresses (SSRF).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fsspec.asyn import sync

from backend.domain.data.parsing.text_formats import SUFFIXES
from backend.domain.data.versions.hub_splits import most_common_ending
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput, NotFound, Unavailable, first_line, require_library
from backend.infra.files.remote import (
    ANSWER_S,
    LIBRARIES,
    MAX_FILES,
    RemoteFile,
    RemoteListing,
    library_errors,
    readable,
)

_URL = re.compile(r"(s3|gs)://([a-zA-Z0-9][\w.-]{1,220})(?:/([^\x00-\x1f\x7f]{0,1024}))?")
KEYS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for another store than Amazon's)",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS",
}
ENDPOINTS = {"s3": ", and AWS_ENDPOINT_URL where the store is not Amazon's", "gs": ""}
LOOK_S = 12.0
WHERE = "in the environment of pages and workers, then start them again."


@dataclass(frozen=True)
class CloudFiles:
    """The files under one address."""

    scheme: str
    root: str
    listing: RemoteListing
    filesystem: Any

    def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return some bytes of a file. Raises Unavailable, also if the object has changed since the look-up."""
        path = f"{self.root}/{file.path}"
        with _translate_errors(self.scheme, f"{self.scheme}://{path}"):
            data: bytes = self.filesystem.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise Unavailable(
                f"{self.scheme}://{path} sent {len(data):,} of {end - start:,} bytes.",
                remedy="Import it again: it resumes.",
            )
        return data


def is_cloud_url(text: str) -> bool:
    """Return whether a text is an address in a supported object store."""
    return _URL.fullmatch(text) is not None


def find_cloud_files(url: str) -> CloudFiles:
    """Find the object at an address, or all readable objects below it.

    Raises InvalidInput for an address of another form, NotFound if it is empty, Unavailable, within seconds, when the
    library, the keys, the permission or the store is missing.
    """
    match = _URL.fullmatch(url.strip())
    if match is None:
        raise InvalidInput(
            f"{url[:120]!r} is not an address of S3 or Google Cloud Storage.",
            remedy="Write it as s3://bucket/path or gs://bucket/path.",
            field="url",
        )
    scheme, bucket, key = match[1], match[2], (match[3] or "").strip("/")
    shown, root = f"{scheme}://{bucket}/{key}".rstrip("/"), f"{bucket}/{key}".rstrip("/")
    for anonymous in (False, True):
        filesystem = _filesystem(scheme, anonymous=anonymous)
        with _translate_errors(scheme, shown, last=anonymous) as missing_keys:
            folder, entries = _list(filesystem, root, is_bucket=not key)
        if not missing_keys:
            break
    files = [
        RemoteFile(path.removeprefix(f"{folder}/"), int(info.get("size") or 0), _mark(info))
        for path, info in entries.items()
    ]
    readable_paths = set(most_common_ending(readable([file.path for file in files])))
    selected = tuple(
        sorted((file for file in files if file.path in readable_paths and file.bytes), key=lambda file: file.path)
    )
    if not selected:
        problem = "is empty or has no known ending" if len(files) == 1 else f"holds no data file ({len(files)} files)"
        raise InvalidInput(f"{shown} {problem}.", remedy=f"Rows are read from {', '.join(SUFFIXES)}.", field="url")
    return CloudFiles(scheme, folder, RemoteListing(shown, selected), filesystem)


def _list(filesystem: Any, root: str, *, is_bucket: bool) -> tuple[str, dict[str, JsonObject]]:
    """Return the folder and path -> facts of the files in it."""
    # the libraries retry an unreachable store for up to a minute: too long for a form
    ask = filesystem._ls if is_bucket else filesystem._info
    answer = sync(filesystem.loop, ask, root, timeout=LOOK_S)
    info = {"type": "directory"} if is_bucket else answer
    if info["type"] != "directory":
        return root.rpartition("/")[0], {root: info}
    entries: dict[str, dict[str, object]] = {}
    for _, _, files in filesystem.walk(root, detail=True):
        entries.update({str(info["name"]): info for info in files.values() if not str(info["name"]).endswith("/")})
        if len(entries) > MAX_FILES:
            raise InvalidInput(
                f"{root} holds more than {MAX_FILES:,} files.", remedy="Name a folder below it.", field="url"
            )
    if not entries:
        raise FileNotFoundError(root)
    return root, entries


def _mark(info: Mapping[str, object]) -> str:
    return str(
        info.get("ETag")
        or info.get("etag")
        or info.get("md5Hash")
        or info.get("LastModified")
        or info.get("mtime")
        or ""
    ).strip('"')


def _filesystem(scheme: str, *, anonymous: bool) -> Any:
    require_library(LIBRARIES[scheme], extra="cloud", needed_for=f"Reading {scheme}://")
    module = import_module(LIBRARIES[scheme])
    if scheme == "s3":
        config = {"connect_timeout": ANSWER_S, "read_timeout": 20, "retries": {"max_attempts": 1}}
        return module.S3FileSystem(
            anon=anonymous, config_kwargs=config, use_listings_cache=False, skip_instance_cache=True
        )
    token = "anon" if anonymous else None
    return module.GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True, timeout=20)


@contextmanager
def _translate_errors(scheme: str, shown: str, *, last: bool = True) -> Iterator[list[bool]]:
    """Translate a store's errors. The yielded list is filled if keys are missing and this is not the `last` attempt."""
    missing_keys: list[bool] = []
    try:
        yield missing_keys
    except FileNotFoundError as error:
        raise NotFound(
            f"There is nothing at {shown}.", remedy=f"Check the bucket and the path{ENDPOINTS[scheme]}.", field="url"
        ) from error
    except PermissionError as error:
        raise Unavailable(
            f"The store refuses to show {shown}: {first_line(error)}.",
            remedy=f"{KEYS[scheme]} of an account that may read it {WHERE}",
            field="url",
        ) from error
    except TimeoutError as error:
        raise Unavailable(
            f"The store does not answer for {shown}.", remedy=f"Check the network{ENDPOINTS[scheme]}, then try again."
        ) from error
    except library_errors(scheme) as error:
        if type(error).__name__ not in ("NoCredentialsError", "DefaultCredentialsError"):
            remedy = f"Check the network{ENDPOINTS[scheme]}, then try again."
            raise Unavailable(f"{shown} can't be read: {first_line(error)}.", remedy=remedy) from error
        if last:
            raise Unavailable(
                f"There are no keys to read {shown} with.", remedy=f"{KEYS[scheme]} {WHERE}", field="url"
            ) from error
        missing_keys.append(True)
