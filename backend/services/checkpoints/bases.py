"""Add bases: list candidates under MODEL_PATH, preview a source, queue the job that adds it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Checkpoint, Job
from backend.domain.jobs.payloads import AddBasePayload
from backend.domain.jobs.results import AddBaseResult, CheckpointFacts
from backend.domain.jobs.states import JobKind, Status
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.checkpoints.candidates import (
    PICKLE_ENDINGS,
    BaseFacts,
    converted_bytes,
    describe_base,
    is_part_of_gguf,
)
from backend.infra.files.paths import find_path, is_text
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint, retired_name
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import add_job, wake

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
REVISION = re.compile(r"\w[\w./-]{0,199}")
MAX_OFFERS = 200
MAX_SEEN = 50_000
"""Maximum number of entries of MODEL_PATH in a scan."""
MAX_DEPTH = 6


@dataclass(frozen=True)
class BaseOffer:
    """A candidate under MODEL_PATH, with either its `facts` or its `problem`."""

    name: str
    path: Path
    kind: Literal["folder", "gguf"]
    facts: BaseFacts | None
    problem: str = ""


@dataclass(frozen=True)
class BasePreview:
    """Preview of a base. From the Hub, `commit` is the resolved revision and `download_bytes` the size to fetch."""

    source: str
    facts: BaseFacts
    commit: str | None = None
    revision: str | None = None
    download_bytes: int = 0

    @property
    def disk_bytes(self) -> int | None:
        """Disk that the base will take: its files, and the safetensors that a GGUF file is converted to; None if
        unknown.
        """
        own, parameters = self.download_bytes or self.facts.bytes, self.facts.parameters
        if self.facts.kind != "gguf":
            return own
        return own + converted_bytes(parameters) if parameters else None


def preview_base(ctx: Context, source: str, *, revision: str | None = None, person: Person) -> BasePreview:
    """Preview a folder, a `.gguf` file or a Hub id as a base; from the Hub only small files are read.

    Raises what `add_base` raises, and InvalidInput, NotFound or Unavailable, with cause and cure, if the Hub has no
    such base.
    """
    require_builder(person)
    location = _source_of(ctx, source, revision, person=person)
    if location["hub"] is None:
        path = Path(str(location["source"]))
        return BasePreview(str(path), describe_base(path))
    from backend.infra.hub.bases import look_up_base  # importing takes a fifth of a second

    base = look_up_base(location["hub"], revision=location["revision"])
    return BasePreview(location["hub"], base.facts, base.revision.commit, base.revision.requested, base.bytes)


@retry_races
def add_base(
    ctx: Context,
    *,
    name: str,
    source: str,
    person: Person,
    revision: str | None = None,
    idempotency_key: str | None = None,
) -> CheckpointView:
    """Queue the job that fetches and checks a base from a folder, a `.gguf` file or a Hub id (`owner/name@revision`).

    The name of a base that could not be added is free again. Raises InvalidInput for a source that can't be a base,
    judged by its headers; Conflict for a taken name; NotAllowed for a path outside MODEL_PATH when an account asks
    (only the command line and a loopback installation may read any path).
    """
    require_builder(person)
    name = clean_name(name, what="A base", limit=160)
    place = _source_of(ctx, source, revision, person=person)
    if place["hub"] is None:
        describe_base(Path(str(place["source"])))
    source_name = (
        place["hub"] + (f"@{place['revision']}" if place["revision"] else "") if place["hub"] else source.strip()
    )
    with ctx.db.write() as session:
        if (again := _of_key(session, idempotency_key)) is not None:
            return get_checkpoint(ctx, again)
        try:
            _require_free_name(session, ctx, name)
        except Conflict:
            if (again := _of_key(session, idempotency_key)) is not None:  # stored between the two looks (PostgreSQL)
                return get_checkpoint(ctx, again)
            raise
        checkpoint_id = new_id()
        job = add_job(
            session,
            ctx,
            AddBasePayload(**place, out=f"bases/{checkpoint_id}", keep_free_bytes=ctx.policy.keep_free_bytes),
            title=f"Add base {name}",
            device="cpu",
            priority=3,
            idempotency_key=idempotency_key,
            created_by=person.id,
        )
        session.add(
            Checkpoint(
                id=checkpoint_id,
                name=name,
                origin="added",
                job_id=job.id,
                source=source_name[:400],
                created_at=ctx.now(),
            )
        )
    wake(ctx, "cpu")
    return get_checkpoint(ctx, checkpoint_id)


def list_base_offers(ctx: Context) -> list[BaseOffer]:
    """Return the candidates under MODEL_PATH, usable ones first: folders with weights and a config, and GGUF files.

    Folders in a cycle of links are visited once, and links that lead out are not followed. A header is read again only
    when its files change.
    """
    root = ctx.model_path.resolve() if ctx.model_path is not None else None
    if root is None or not root.is_dir():
        return []
    offers = []
    for path, stamp in _find_candidates(root):
        facts, problem = _described(path, stamp)
        name = path.relative_to(root).as_posix()
        offers.append(
            BaseOffer(
                name if name != "." else root.name, path, "gguf" if path.suffix == ".gguf" else "folder", facts, problem
            )
        )
    return sorted(offers, key=lambda offer: (offer.facts is None, offer.name.lower()))


def record_base(session: Session, ctx: Context, claim: Claim[AddBasePayload], result: AddBaseResult) -> None:
    """Store the facts of an added base from its job's result. A GGUF file that was exported here has that export's
    checkpoint as its parent.
    """
    row = session.scalars(select(Checkpoint).where(Checkpoint.job_id == claim.job_id)).one()
    row.folder, row.family = result.folder, result.family
    row.parameters, row.bytes, row.is_adapter = result.parameters, result.bytes, result.adapter
    row.facts = CheckpointFacts.model_validate(result.dump())
    if result.gguf_hash:
        exported = select(Job.payload["checkpoint_id"].as_string()).where(
            Job.kind == JobKind.EXPORT, Job.result["gguf_hash"].as_string() == result.gguf_hash
        )
        row.parent_id = session.scalar(
            select(Checkpoint.id).where(Checkpoint.id.in_(exported)).order_by(Checkpoint.created_at).limit(1)
        )


def _find_candidates(root: Path) -> list[tuple[Path, int]]:
    """Walk below a folder breadth-first; return candidates with a stamp that changes with their files."""
    candidates: list[tuple[Path, int]] = []
    waiting, visited, num_entries = [(root, 0)], {root}, 0
    while waiting and len(candidates) < MAX_OFFERS and num_entries < MAX_SEEN:
        folder, depth = waiting.pop(0)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue  # not readable
        num_entries += len(entries)
        files: dict[str, os.stat_result] = {}
        for entry in entries:
            try:
                if not is_text(entry.name):
                    continue
                if entry.is_file():
                    files[entry.name] = entry.stat()
                elif entry.is_dir() and not entry.name.startswith(".") and depth < MAX_DEPTH:
                    inner = Path(entry.path).resolve()
                    if inner not in visited and inner.is_relative_to(root):
                        visited.add(inner)
                        waiting.append((inner, depth + 1))
            except OSError:
                continue  # a link to itself, a file that went away
        if _looks_like_base(set(files)):
            candidates.append(
                (folder, hash(tuple((name, state.st_size, state.st_mtime_ns) for name, state in files.items())))
            )
        candidates += [
            (folder / name, hash((state.st_size, state.st_mtime_ns)))
            for name, state in files.items()
            if name.endswith(".gguf") and not is_part_of_gguf(name)
        ]
    return candidates[:MAX_OFFERS]


def _looks_like_base(names: set[str]) -> bool:
    """Return whether a folder with these files is a candidate: weights with a config, or an adapter."""
    has_weights = any(
        name.endswith(".safetensors") or (name.endswith(PICKLE_ENDINGS) and "model" in name) for name in names
    )
    return "adapter_config.json" in names or (
        "config.json" in names and (has_weights or "model.safetensors.index.json" in names)
    )


@lru_cache(maxsize=4 * MAX_OFFERS)
def _described(path: Path, stamp: int) -> tuple[BaseFacts | None, str]:
    """Describe a candidate or the reason it can't be a base; cached until its stamp changes."""
    try:
        return describe_base(path), ""
    except InvalidInput as error:
        return None, error.message
    except OSError as error:
        return None, f"{path.name} can't be read: {error.strerror}."


def _source_of(ctx: Context, source: str, revision: str | None, *, person: Person) -> dict[str, str | None]:
    """Classify a source as a local path or a Hub id with its revision."""
    source, revision = source.strip(), (revision or "").strip() or None
    if not source:
        raise InvalidInput("A base needs a source.", remedy="Give a folder, a .gguf file or a Hub id.", field="source")
    path = find_path(source)
    if path is not None:
        if revision:
            raise InvalidInput(
                f"{source} lies on this machine, and has no revisions.",
                remedy="Leave the revision out.",
                field="revision",
            )
        full = path.resolve()
        inside = ctx.model_path is not None and full.is_relative_to(ctx.model_path.resolve())
        if person.id is not None and not inside:
            raise NotAllowed(
                f"{source} lies outside the folder of checkpoints.",
                remedy="Put it under MODEL_PATH, or use `roundhouse base add` on the server.",
            )
        if not full.is_dir() and not (full.is_file() and full.suffix == ".gguf"):
            raise InvalidInput(f"{full.name} is neither a folder nor a .gguf file.", field="source")
        return {"source": str(full), "hub": None, "revision": None}
    hub, _, named = source.partition("@")
    if source.startswith(("/", ".", "~")) or source.endswith(".gguf") or not HUB_ID.fullmatch(hub) or ".." in hub:
        raise NotFound(
            f"There is no folder or file {source}.",
            remedy="Check the path, or give a Hub id such as owner/name.",
            field="source",
        )
    if named and revision and named != revision:
        raise InvalidInput(
            f"{source} names one revision, and {revision!r} is another.", remedy="Give one of them.", field="revision"
        )
    revision = named or revision
    if revision and (not REVISION.fullmatch(revision) or ".." in revision):
        raise InvalidInput(
            f"{revision!r} is not a revision.", remedy="Give a branch, a tag or a commit.", field="revision"
        )
    return {"source": None, "hub": hub, "revision": revision}


def _require_free_name(session: Session, ctx: Context, name: str) -> None:
    """Raise Conflict if a name is taken; retire a base of that name that could not be added."""
    row = session.scalar(select(Checkpoint).where(Checkpoint.name == name))
    if row is None:
        return
    job = session.get(Job, row.job_id) if row.job_id else None
    if row.folder or job is None or job.status not in (Status.FAILED, Status.CANCELLED):
        raise Conflict(f"There is already a checkpoint “{name}”.", remedy="Choose another name.", field="name")
    row.deleted_at, row.name = ctx.now(), retired_name(session, row)
    session.flush()


def _of_key(session: Session, key: str | None) -> str | None:
    return (
        session.scalar(select(Checkpoint.id).join(Job, Job.id == Checkpoint.job_id).where(Job.idempotency_key == key))
        if key
        else None
    )
