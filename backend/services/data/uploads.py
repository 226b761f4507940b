"""Files uploaded through the browser: streamed to disk, kept until a job has read them, deleted after a day."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.tables import Job
from backend.domain.data.parsing.text_formats import suffix_of
from backend.domain.jobs.states import ACTIVE, JobKind
from backend.errors import InvalidInput
from backend.services.context import Context, Person, require_builder

CHUNK_BYTES = 1 << 20
KEEP_UNUSED = timedelta(days=1)
READERS: dict[str, str] = {
    JobKind.IMPORT_DATASET.value: "source",
    JobKind.LOGLIKELIHOOD.value: "rows_file",
    JobKind.CLASSIFY.value: "texts_file",
}
"""Kinds of jobs that read an upload, with the payload's field of its path."""


def save_upload(ctx: Context, file: BinaryIO, *, name: str, person: Person) -> str:
    """Stream a file into `uploads/` and return its stored path.

    Raises InvalidInput for an ending that can't be read, an empty file or one above the installation's limit,
    Unavailable if the disk is too full.
    """
    with _new_folder(ctx, person) as folder:
        path = folder / _safe_name(name)
        _stream(ctx, file, name, path)
        return ctx.artifacts.relative(path)


def save_uploads(ctx: Context, files: Sequence[tuple[str, BinaryIO]], *, person: Person) -> str:
    """Stream named files into `uploads/` and return their stored path: of one the file, of several their folder, where
    their names (`stored_names`) keep their order.

    Raises what `save_upload` raises.
    """
    if len(files) == 1:
        ((name, file),) = files
        return save_upload(ctx, file, name=name, person=person)
    with _new_folder(ctx, person) as folder:
        inside = folder / "uploaded files"
        inside.mkdir()
        for (name, file), stored in zip(files, stored_names([name for name, _ in files]), strict=True):
            _stream(ctx, file, name, inside / stored)
        return ctx.artifacts.relative(inside)


@contextmanager
def _new_folder(ctx: Context, person: Person) -> Iterator[Path]:
    require_builder(person)
    _forget_unused(ctx)
    folder = ctx.artifacts.folder("uploads", new_id())
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _stream(ctx: Context, file: BinaryIO, name: str, path: Path) -> None:
    written = 0
    with path.open("wb") as out:
        while chunk := file.read(CHUNK_BYTES):
            written += len(chunk)
            if written > ctx.policy.max_upload_bytes:
                raise InvalidInput(
                    f"{name} is larger than {ctx.policy.max_upload_bytes / 2**20:.0f} MB.",
                    remedy="Put it into DATA_PATH, or raise ROUNDHOUSE_MAX_UPLOAD_MB.",
                    field="file",
                )
            ctx.artifacts.require_free(len(chunk), keep=ctx.policy.keep_free_bytes, purpose="The upload")
            out.write(chunk)
    if not written:
        raise InvalidInput(f"{name} is empty.", field="file")


def stored_names(names: Sequence[str]) -> list[str]:
    """Return the names under which uploaded files are stored: numbered where theirs would change their order, or are
    equal. Raises InvalidInput for an ending that can't be read.
    """
    safe = [_safe_name(name) for name in names]
    if safe == sorted(set(safe)):
        return safe
    digits = len(str(len(safe)))
    return [f"{number:0{digits}} {name}" for number, name in enumerate(safe, start=1)]


def uploaded_name(stored: str) -> str:
    """Return a stored name without the number of its file.

    >>> uploaded_name("02 tales.csv")
    'tales.csv'
    """
    return stored.rpartition(" ")[2]


def _safe_name(name: str) -> str:
    """Return a file name without folders and special characters. Raises InvalidInput if its ending can't be read."""
    base = Path(name.replace("\\", "/")).name
    ending = "".join(suffix_of(base))
    stem = re.sub(r"[^\w.-]+", "-", base[: -len(ending)]).strip(".-")[:80]
    return f"{stem or 'file'}{ending}"


def _forget_unused(ctx: Context) -> None:
    """Delete uploads that were not imported within a day; those of unfinished jobs stay."""
    oldest = (ctx.now() - KEEP_UNUSED).timestamp()
    old = [folder for folder in ctx.artifacts.folder("uploads").iterdir() if folder.stat().st_mtime < oldest]
    if not old:
        return
    with ctx.db.read() as session:
        active = session.execute(select(Job.kind, Job.payload).where(Job.kind.in_(READERS), Job.status.in_(ACTIVE)))
        needed = {Path(str(payload.get(READERS[kind]))).parent.name for kind, payload in active}
    for folder in old:
        if folder.name not in needed:
            with suppress(OSError):
                ctx.artifacts.remove(ctx.artifacts.relative(folder))
