"""Drafts of deployments: which checkpoint may draft for which."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint
from backend.domain.serving.deployment import DeploymentConfig, DeploymentOptions
from backend.domain.serving.drafts import CHOOSE_DRAFT, read_vocabulary, why_not_drafting
from backend.errors import InvalidInput
from backend.services.checkpoints.checkpoints import require_writer
from backend.services.checkpoints.networks import read_network_shape
from backend.services.context import Context

DRAFT = "draft"
"""The option at fault in an error."""

MAX_TOKENIZER_BYTES = 64 << 20


def check_draft(ctx: Context, checkpoint_id: str, *, options: DeploymentOptions) -> None:
    """Raise InvalidInput with the reason where the draft of a deployment's options can't draft for a checkpoint."""
    with ctx.db.read() as session:
        checkpoint = session.get(Checkpoint, checkpoint_id)
        if checkpoint is not None and (problem := _problem(session, ctx, checkpoint, options)) is not None:
            raise problem


def with_fitting_draft(
    session: Session, ctx: Context, checkpoint: Checkpoint, config: DeploymentConfig
) -> DeploymentConfig:
    """Return a deployment's config, without its draft if that doesn't fit the checkpoint: answers stay the same."""
    if config.draft is None or _problem(session, ctx, checkpoint, config) is None:
        return config
    return config.replace(draft=None)


def list_drafts(ctx: Context, checkpoint_id: str) -> dict[str, str]:
    """Return the checkpoints that can draft for one in float32, by id, smallest first, and itself last."""
    with ctx.db.read() as session:
        checkpoint = session.get_one(Checkpoint, checkpoint_id)
        here = select(Checkpoint).where(
            Checkpoint.deleted_at.is_(None), Checkpoint.archived_at.is_(None), Checkpoint.folder.is_not(None)
        )
        is_smaller = (Checkpoint.parameters < (checkpoint.parameters or 0)) | (Checkpoint.id == checkpoint_id)
        smaller = here.where(is_smaller, Checkpoint.is_adapter.is_(False))
        return {
            row.id: f"{row.name} (itself, in int8)" if row.id == checkpoint_id else row.name
            for row in session.scalars(smaller.order_by(Checkpoint.parameters, Checkpoint.name))
            if _problem(session, ctx, checkpoint, DeploymentOptions(draft=row.id)) is None
        }


def _problem(session: Session, ctx: Context, checkpoint: Checkpoint, options: DeploymentOptions) -> InvalidInput | None:
    """Return the error that a draft is refused with, or None."""
    draft = session.get(Checkpoint, options.draft)
    if draft is None or draft.deleted_at is not None or draft.folder is None:
        return _refusal(f"There is no checkpoint {options.draft!r} to draft.", "Choose another draft, or none.")
    pair = f"“{draft.name}” can't draft for “{checkpoint.name}”"
    if options.engine == "serial" or options.device == "gpu":
        setting = "engine serial" if options.engine == "serial" else "device gpu"
        return _refusal(
            f"{pair} with {setting}: drafts are checked by the batching engine on CPUs.",
            "Change it, or deploy without a draft.",
        )
    if checkpoint.folder is None:
        return _refusal(f"{pair}: another server answers for it.", "Deploy without a draft.")
    is_own = draft.id == checkpoint.id and options.precision != "int8"  # drafts are in int8
    if not is_own and (draft.parameters or 0) >= (checkpoint.parameters or float("inf")):
        sizes = f"{draft.parameters:,} parameters, and {checkpoint.parameters:,} are served"
        return _refusal(f"{pair} in {options.precision}: it has {sizes}.", "Choose a smaller draft, or none.")
    for row in (draft, checkpoint):
        if (why := why_not_drafting(read_network_shape(ctx, row.folder or ""))) is not None:
            return _refusal(f"{pair}: of “{row.name}”, {why}.", "Choose another draft, or none.")
    vocabularies = [_vocabulary(ctx, row.folder or "") for row in (draft, checkpoint)]
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        return _refusal(f"{pair}: their vocabularies differ.", CHOOSE_DRAFT)
    try:
        require_writer(session, draft.id, field=DRAFT)
    except InvalidInput as problem:
        return problem
    return None


def _refusal(message: str, remedy: str) -> InvalidInput:
    return InvalidInput(message, remedy=remedy, field=DRAFT)


def _vocabulary(ctx: Context, folder: str) -> str | None:
    """Return a hash of a checkpoint's tokens and their ids; None where its file does not tell: its replica judges."""
    file = ctx.artifacts.path(f"{folder}/tokenizer.json")
    try:
        about = file.stat()
    except OSError:
        return None
    return None if about.st_size > MAX_TOKENIZER_BYTES else _hash_vocabulary(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1024)
def _hash_vocabulary(file: Path, changed: int, size: int) -> str | None:
    """Return the hash of a file's tokens; when it was changed and its size are part of the cache's key."""
    try:
        vocabulary = read_vocabulary(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return None if vocabulary is None else hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest()
