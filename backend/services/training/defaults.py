"""Defaults of the launch form for the chosen objective, method, dataset and network, and the default tokenizer of an
architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from backend.db.tables import Run, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.rows.conversations import as_conversation
from backend.domain.json_values import FieldValues
from backend.domain.scaling.shapes import count_without_embeddings
from backend.domain.training.defaults import Basis, suggest_values
from backend.domain.training.objectives import Objective
from backend.errors import RoundhouseError
from backend.services.architectures import get_architecture
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.checkpoints.networks import read_network_shape
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.row_pages import read_version_rows
from backend.services.data.sizes import read_train_tokens
from backend.services.data.views import VersionView
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer

NUM_PROMPTS, MAX_PROMPT = 2, 200
MIN_VOCABULARY_USE = 0.5
"""Share of an architecture's vocabulary that a tokenizer must fill to be suggested for it."""


def suggest_defaults(
    ctx: Context,
    *,
    objective: Objective,
    method: str,
    dataset: str | None,
    architecture: str | ArchitectureConfig | None = None,
    tokenizer: str | None = None,
    base: str | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> FieldValues:
    """Return values by path for a run of these parts, `sample_prompts` among them; parts that are not there are
    ignored.

    `chosen` are values that are fixed already.
    """
    basis = Basis(objective, method, has_base=base is not None, chosen=chosen or {})
    basis = _with_base(ctx, basis, base) if base else _with_architecture(ctx, basis, architecture)
    values: dict[str, object] = {}
    try:
        version = resolve_version(ctx, dataset, ready=False) if dataset else None
    except RoundhouseError:
        version = None
    if version is not None:
        basis = replace(
            basis, train_rows=version.train_rows or None, unique_tokens=_unique_tokens(ctx, version, tokenizer)
        )
        if not objective.pretrains and (prompts := _prompts(ctx, version)):
            values["sample_prompts"] = prompts
    return {**values, **suggest_values(basis)}


def find_max_context(
    ctx: Context, *, architecture: str | ArchitectureConfig | None = None, base: str | None = None
) -> int | None:
    """Return the longest context of a base, or else of an architecture; None where it is not known."""
    basis = Basis(Objective.PRETRAIN)
    return (_with_base(ctx, basis, base) if base else _with_architecture(ctx, basis, architecture)).max_context


def suggest_tokenizer(ctx: Context, architecture: str) -> str | None:
    """Return the name of the default tokenizer of an architecture, None if none fits.

    It is the one of the newest run of this architecture, else the largest that its vocabulary holds.
    """
    try:
        stored = get_architecture(ctx, architecture)
    except RoundhouseError:
        return None
    ready = select(Tokenizer.name, Tokenizer.vocab_size).where(Tokenizer.folder.is_not(None))
    with ctx.db.read() as session:
        used = session.execute(
            ready.join(Run, Run.tokenizer_id == Tokenizer.id)
            .where(Run.architecture_id == stored.id)
            .order_by(Run.created_at.desc())
            .limit(1)
        ).first()
        if used is not None:
            return str(used[0])
        sizes = [(int(size), str(name)) for name, size in session.execute(ready.order_by(Tokenizer.created_at)) if size]
    vocabulary = stored.config.vocab_size
    fitting = [pair for pair in sizes if MIN_VOCABULARY_USE * vocabulary <= pair[0] <= vocabulary]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def suggest_dataset(ctx: Context, architecture: str) -> str | None:
    """Return `name@version` of the text that the default tokenizer of an architecture was trained on; None where that
    is not known or is no text for pretraining.
    """
    try:
        tokenizer = suggest_tokenizer(ctx, architecture)
        source = get_tokenizer(ctx, tokenizer).dataset if tokenizer else None
        version = resolve_version(ctx, source) if source else None
    except RoundhouseError:
        return None
    return version.label if version and version.kind in Objective.PRETRAIN.facts.datasets else None


def _with_base(ctx: Context, basis: Basis, base: str) -> Basis:
    try:
        checkpoint = resolve_checkpoint(ctx, base)
    except RoundhouseError:
        return basis
    shape = read_network_shape(ctx, checkpoint.folder) if checkpoint.folder else None
    context = checkpoint.facts.context or (shape.context if shape else None)
    parameters = count_without_embeddings(shape) if shape else checkpoint.parameters
    return replace(basis, parameters=parameters, max_context=int(context) if context else None)


def _with_architecture(ctx: Context, basis: Basis, architecture: str | ArchitectureConfig | None) -> Basis:
    try:
        shape = get_architecture(ctx, architecture).config if isinstance(architecture, str) else architecture
    except RoundhouseError:
        return basis
    return replace(basis, parameters=count_without_embeddings(shape), max_context=shape.context) if shape else basis


def _unique_tokens(ctx: Context, version: VersionView, tokenizer: str | None) -> int | None:
    try:
        view: TokenizerView | None = get_tokenizer(ctx, tokenizer) if tokenizer else None
    except RoundhouseError:
        return None
    tokens = read_train_tokens(ctx, version, view) if view else None
    return tokens.number if tokens else None


def _prompts(ctx: Context, version: VersionView) -> tuple[str, ...]:
    """Return the first prompts of a dataset's rows; none for rows without."""
    if version.folder is None:
        return ()
    prompts = []
    try:
        for row in read_version_rows(ctx, version.folder, split="train", limit=NUM_PROMPTS):
            conversation = as_conversation(row)
            messages = conversation.messages if conversation else [{"role": "user", "content": row.get("prompt")}]
            first = next((message.get("content") for message in messages if message["role"] == "user"), None)
            text = " ".join(first.split()) if isinstance(first, str) else ""
            if text and len(text) <= MAX_PROMPT:
                prompts.append(text)
    except (RoundhouseError, OSError):
        return ()
    return tuple(dict.fromkeys(prompts))
