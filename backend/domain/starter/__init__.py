"""Starter content: Pebblewick, a made-up village, told as stories, questions, preferences and benchmarks.

Everything is generated from a fixed seed in about a second and is always the same, so a fresh installation has
something to train on, measure, compare and chat about. Text is plain ASCII.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.domain.starter.benchmarks import battle_prompts, generation_items, multiple_choice_items
from backend.domain.starter.chat import chat_rows
from backend.domain.starter.preferences import preference_rows
from backend.domain.starter.stories import pretrain_texts

__all__ = [
    "STARTER_DATASETS",
    "StarterDataset",
    "battle_prompts",
    "chat_rows",
    "generation_items",
    "multiple_choice_items",
    "preference_rows",
    "pretrain_texts",
]


@dataclass(frozen=True)
class StarterDataset:
    """One dataset of the starter content: its name, kind, a sentence about it, and its rows in the canonical form of
    the kind.
    """

    name: str
    kind: str
    notes: str
    make_rows: Callable[[], list[Mapping[str, Any]]]


STARTER_DATASETS: tuple[StarterDataset, ...] = (
    StarterDataset(
        "pebblewick-stories",
        "text",
        "Short stories from a made-up village, to pre-train on.",
        lambda: [{"text": t} for t in pretrain_texts()],
    ),
    StarterDataset(
        "pebblewick-chat",
        "chat",
        "Questions about the village and requests for stories, with answers.",
        lambda: [*chat_rows()],
    ),
    StarterDataset(
        "pebblewick-preferences",
        "preference",
        "Good and bad answers to the same questions.",
        lambda: [*preference_rows()],
    ),
    StarterDataset(
        "pebblewick-facts",
        "benchmark",
        "Multiple choice: completion of a sentence. For any network.",
        lambda: [*multiple_choice_items()],
    ),
    StarterDataset(
        "pebblewick-questions",
        "benchmark",
        "Generation: questions phrased as in no training row.",
        lambda: [*generation_items()],
    ),
    StarterDataset(
        "pebblewick-prompts", "prompts", "Prompts for battles.", lambda: [{"prompt": p} for p in battle_prompts()]
    ),
)
