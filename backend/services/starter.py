"""Starter content: datasets, a tokenizer and an architecture for a fresh installation, before the first upload.

The datasets tell of Pebblewick, a made-up village, as stories, questions, preferences and benchmarks: something to
train on, measure, compare and chat about. Their rows are files of `backend/recipes/starter/`, in plain ASCII. Imports
and the tokenizer are jobs, so the first start does not wait for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from backend.db.tables import Architecture, Dataset, Job, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.versions.provenance import StarterProvenance
from backend.domain.tokenizers.config import TokenizerConfig
from backend.services.architectures import save_architecture
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import set_dataset_notes
from backend.services.data.imports import add_rows_dataset
from backend.services.tokenizers.tokenizers import train_tokenizer

STARTER_TEXT = "pebblewick-stories"
STARTER_TOKENIZER = "pebblewick-bpe-2048"
STARTER_ARCHITECTURE = "pebblewick-1m"
STARTER_CONFIG = ArchitectureConfig(
    num_layers=4, width=128, num_heads=4, num_kv_heads=4, context=256, vocab_size=2048, feed_forward=384
)


@dataclass(frozen=True)
class StarterDataset:
    """One dataset of the starter content: its name, which is its file's too, its kind and a sentence about it."""

    name: str
    kind: str
    notes: str

    def read_rows(self) -> list[dict[str, object]]:
        """Read its rows, in the canonical form of the kind."""
        text = (resources.files("backend.recipes") / "starter" / f"{self.name}.jsonl").read_text(encoding="ascii")
        return [json.loads(line) for line in text.splitlines()]


STARTER_DATASETS = (
    StarterDataset(STARTER_TEXT, "text", "Short stories from a made-up village, to pre-train on."),
    StarterDataset("pebblewick-chat", "chat", "Questions about the village and requests for stories, with answers."),
    StarterDataset("pebblewick-preferences", "preference", "Good and bad answers to the same questions."),
    StarterDataset("pebblewick-facts", "benchmark", "Multiple choice: completion of a sentence. For any model."),
    StarterDataset("pebblewick-questions", "benchmark", "Generation: questions phrased as in no training row."),
    StarterDataset("pebblewick-prompts", "prompts", "Prompts for battles."),
)


def ensure_starter_content(ctx: Context) -> None:
    """Queue the starter content that was never queued before. Deleted content stays deleted.

    Takes about a second at the first start and one query after that. Safe to call from several processes at once.
    """
    if _was_made(ctx):
        return
    try:
        for dataset in STARTER_DATASETS:
            _import(ctx, dataset)
        if not _taken(ctx, Architecture, STARTER_ARCHITECTURE):
            save_architecture(ctx, name=STARTER_ARCHITECTURE, config=STARTER_CONFIG, person=LOCAL)
        if not _taken(ctx, Tokenizer, STARTER_TOKENIZER):
            train_tokenizer(
                ctx,
                name=STARTER_TOKENIZER,
                dataset=STARTER_TEXT,
                config=TokenizerConfig(vocab_size=STARTER_CONFIG.vocab_size),
                person=LOCAL,
                idempotency_key=_key(STARTER_TOKENIZER),
            )
    except IntegrityError:
        return  # another process of this installation queues it


def _was_made(ctx: Context) -> bool:
    """Return whether every starter job was ever queued: idempotency keys outlive deleted datasets."""
    keys = [_key(dataset.name) for dataset in STARTER_DATASETS] + [_key(STARTER_TOKENIZER)]
    with ctx.db.read() as session:
        return session.scalar(select(func.count()).select_from(Job).where(Job.idempotency_key.in_(keys))) == len(keys)


def _import(ctx: Context, dataset: StarterDataset) -> None:
    if _taken(ctx, Dataset, dataset.name):
        return
    with ctx.db.read() as session:
        if session.scalar(select(Job.id).where(Job.idempotency_key == _key(dataset.name))) is not None:
            return
    version = add_rows_dataset(
        ctx,
        name=dataset.name,
        kind=dataset.kind,
        rows=dataset.read_rows(),
        provenance=StarterProvenance(made_by="Roundhouse"),
        person=LOCAL,
        idempotency_key=_key(dataset.name),
    )
    set_dataset_notes(ctx, version.dataset_id, dataset.notes, person=LOCAL)


def _taken(ctx: Context, table: type[Dataset] | type[Architecture] | type[Tokenizer], name: str) -> bool:
    with ctx.db.read() as session:
        return session.scalar(select(table.id).where(table.name == name)) is not None


def _key(name: str) -> str:
    return f"starter:{name}"
