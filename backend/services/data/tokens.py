"""The tokens that runs share: what is stored, and its deletion once no run needs it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select

from backend.db.tables import Dataset, DatasetVersion, Job, Run
from backend.domain.data.token_folders import FOLDER, LOCK, MANIFEST, Manifest
from backend.domain.jobs.states import TERMINAL
from backend.infra.files.locks import try_lock
from backend.services.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenFolder:
    """The tokens of one split. `version` is the label of the dataset's version, empty if it was deleted; `opened_at` is
    when a run last opened them, or its maker last wrote.
    """

    content_hash: str
    version: str
    form: str
    split: str
    rows: int
    rows_made: int
    num_bytes: int
    is_complete: bool
    opened_at: datetime


def list_tokens(ctx: Context) -> list[TokenFolder]:
    """Return all stored tokens, largest first."""
    stored = [known for path in ctx.artifacts.folder(FOLDER).iterdir() if path.is_dir() and (known := _read(path))]
    labels = _labels(ctx, {str(manifest.identity.get("dataset")) for manifest, _ in stored})
    folders = []
    for manifest, opened_at in stored:
        identity = manifest.identity
        content_hash = str(identity.get("dataset"))
        folders.append(
            TokenFolder(
                content_hash=content_hash,
                version=labels.get(content_hash, ""),
                form=str(identity.get("form")),
                split=str(identity.get("split")),
                rows=int(identity.get("rows") or 0),
                rows_made=int(manifest.counts.get("rows") or 0),
                num_bytes=manifest.num_bytes,
                is_complete=manifest.is_complete,
                opened_at=opened_at,
            )
        )
    return sorted(folders, key=lambda folder: -folder.num_bytes)


def _read(path: Path) -> tuple[Manifest, datetime] | None:
    try:
        opened_at = datetime.fromtimestamp((path / MANIFEST).stat().st_mtime, UTC)
        return Manifest.read((path / MANIFEST).read_text(encoding="utf-8")), opened_at
    except (OSError, ValueError):
        return None


def _labels(ctx: Context, hashes: Collection[str]) -> dict[str, str]:
    query = (
        select(DatasetVersion.content_hash, Dataset.name, DatasetVersion.number)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(DatasetVersion.content_hash.in_(hashes))
    )
    with ctx.db.read() as session:
        return {str(content): f"{name}@{number}" for content, name, number in session.execute(query)}


def remove_unused_tokens(ctx: Context) -> int:
    """Delete tokens that no run has opened for as long as the policy keeps folders of jobs; return the number of
    folders.

    Those of versions that a run waits for or trains on stay.
    """
    days = ctx.policy.keep_job_folders_days
    if days <= 0:
        return 0
    before = ctx.now() - timedelta(days=days)
    old = [path for path in ctx.artifacts.folder(FOLDER).iterdir() if path.is_dir() and _opened_at(path) < before]
    if not old:
        return 0
    needed = _needed(ctx)
    return sum(
        _remove(path)
        for path in old
        if not ((known := _read(path)) and str(known[0].identity.get("dataset")) in needed)
    )


def _opened_at(path: Path) -> datetime:
    for each in (path / MANIFEST, path):
        try:
            return datetime.fromtimestamp(each.stat().st_mtime, UTC)
        except OSError:
            continue
    return datetime.now(UTC)


def _needed(ctx: Context) -> set[str]:
    query = (
        select(DatasetVersion.content_hash)
        .join(Run, Run.dataset_version_id == DatasetVersion.id)
        .join(Job, Job.id == Run.job_id)
        .where(Job.status.not_in(TERMINAL))
    )
    with ctx.db.read() as session:
        return {str(content) for content in session.scalars(query)}


def remove_tokens_of(ctx: Context, hashes: Collection[str]) -> None:
    """Delete the tokens of versions that were deleted, by their content, unless another version has the same: here, and
    in a store whichever machine has made them.
    """
    with ctx.db.read() as session:
        shared = set(
            session.scalars(select(DatasetVersion.content_hash).where(DatasetVersion.content_hash.in_(hashes)))
        )
    unused = set(hashes) - shared
    for path in ctx.artifacts.folder(FOLDER).iterdir():
        known = _read(path) if path.is_dir() else None
        if known is not None and str(known[0].identity.get("dataset")) in unused and _remove(path):
            ctx.artifacts.note_removed(f"{FOLDER}/{path.name}")
    for content_hash in unused:
        ctx.artifacts.note_rows_removed(content_hash)


def _remove(path: Path) -> bool:
    """Delete a folder that no process writes, its manifest first, so that no run opens the rest."""
    try:
        with try_lock(path / LOCK) as is_free:
            if not is_free:
                return False
            (path / MANIFEST).unlink(missing_ok=True)
            for file in path.iterdir():
                if file.name != LOCK:
                    file.unlink(missing_ok=True)
            (path / LOCK).unlink(missing_ok=True)
        path.rmdir()
    except OSError as error:  # another machine deletes it at the same moment, or permission is missing
        log.warning("the tokens in %s can't be deleted: %s", path.name, error)
        return False
    return True
