"""Resolve references to tokenizers, trained here or in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backend.domain.jobs.states import status_word
from backend.domain.names import not_found
from backend.errors import Conflict, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints, resolve_checkpoint
from backend.services.context import Context
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer, list_tokenizers


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer to use. `ref` is "tokenizer:ID" or "checkpoint:ID"; `folder` is relative to the artifacts.
    `bytes_per_token` was measured on text like that it was trained on, None for a checkpoint's.
    """

    ref: str
    name: str
    kind: Literal["tokenizer", "checkpoint"]
    id: str
    folder: str
    vocab_size: int | None
    bytes_per_token: float | None = None


def list_sources(ctx: Context) -> list[TokenizerSource]:
    """Return the tokenizers trained here, then those of bases, newest first. Checkpoints of runs have their run's."""
    own = [_of_tokenizer(view) for view in list_tokenizers(ctx, ready=True)]
    return [
        *own,
        *(_of_checkpoint(view) for view in list_checkpoints(ctx, origin="added", ready=True) if not view.is_adapter),
    ]


def resolve_source(ctx: Context, text: str) -> TokenizerSource:
    """Return the tokenizer of a reference, or of the name or id of a tokenizer or else a checkpoint.

    Raises NotFound with similar names, Conflict if its files are missing.
    """
    kind, _, identity = text.partition(":")
    if kind == "checkpoint" and identity:
        return _of_checkpoint(resolve_checkpoint(ctx, identity))
    try:
        view = get_tokenizer(ctx, identity if kind == "tokenizer" and identity else text)
    except NotFound:
        try:
            return _of_checkpoint(resolve_checkpoint(ctx, text))
        except NotFound:
            names = [source.name for source in list_sources(ctx)]
            raise not_found(
                "tokenizer or checkpoint", text, names, remedy="Train one on the Tokenizers page."
            ) from None
    if not view.is_ready:
        raise Conflict(
            f"The tokenizer “{view.name}” is not ready: it is {status_word(view.status)}.",
            remedy="Wait for its job.",
            field="tokenizer",
        )
    return _of_tokenizer(view)


def _of_tokenizer(view: TokenizerView) -> TokenizerSource:
    return TokenizerSource(
        f"tokenizer:{view.id}",
        view.name,
        "tokenizer",
        view.id,
        str(view.folder),
        view.vocab_size,
        view.facts.bytes_per_token,
    )


def _of_checkpoint(view: CheckpointView) -> TokenizerSource:
    return TokenizerSource(
        f"checkpoint:{view.id}", view.name, "checkpoint", view.id, str(view.folder), view.facts.vocab_size
    )
