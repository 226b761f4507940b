"""Prompts of a campaign: held-out rows of a dataset, or the prompts of a file of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from backend.domain.battles.campaign import CampaignConfig, Messages, content_hash, prompt_messages, with_system
from backend.domain.data.kinds import PROMPT_KINDS
from backend.errors import InvalidInput
from backend.infra.files.parquet import read_rows
from backend.services.battles.contestants import Entry
from backend.services.context import Context
from backend.services.data.views import VersionView

MAX_ROWS = 100_000
T = TypeVar("T")


@dataclass(frozen=True)
class DrawnPrompt:
    """A prompt and its category, empty without one."""

    messages: Messages
    category: str = ""


def draw_from(ctx: Context, version: VersionView, config: CampaignConfig) -> list[DrawnPrompt]:
    """Draw a campaign's prompts from the validation split of a dataset, and from its training split only if the config allows it.

    Raises InvalidInput if there are too few, or no column of the categories.
    """
    prompts = list(_read(ctx, version, config, until=config.num_prompts).values())
    if len(prompts) < config.num_prompts and not config.allow_train:
        raise InvalidInput(
            f"The validation split of “{version.label}” has {len(prompts)} different prompts, and {config.num_prompts} are needed: rows "
            "that a contestant may have trained on would favour it.",
            remedy=f"Use {len(prompts)} prompts, choose another dataset, or allow training rows (allow_train)."
            if prompts
            else "Choose another dataset, or allow training rows (allow_train).",
            field="num_prompts",
        )
    if not prompts:
        raise InvalidInput(f"No row of “{version.label}” holds a prompt.", remedy="Choose another dataset.", field="dataset")
    return draw_prompts(prompts, num=config.num_prompts, seed=config.seed)


def read_prompts(ctx: Context, version: VersionView, *, config: CampaignConfig) -> list[Messages]:
    """Return the distinct prompts of a dataset's validation split, and of its training split too if the config allows it.

    Raises InvalidInput if its rows have no prompts.
    """
    return [prompt.messages for prompt in _read(ctx, version, config, until=MAX_ROWS).values()]


def draw_prompts(prompts: list[T], *, num: int, seed: int) -> list[T]:
    """Return at most `num` prompts, drawn with the seed, in the dataset's order."""
    if len(prompts) <= num:
        return prompts
    return [prompts[index] for index in sorted(Random(seed).sample(range(len(prompts)), num))]


def prompts_of_entries(entries: Sequence[Entry], config: CampaignConfig) -> list[DrawnPrompt]:
    """Draw a campaign's prompts from the first file of completions. Raises InvalidInput without a file."""
    prompts = next((list(entry.prompts.values()) for entry in entries if entry.prompts), [])
    if not prompts:
        raise InvalidInput("The campaign has no prompts.", remedy="Choose a dataset.", field="dataset")
    return [DrawnPrompt(messages) for messages in draw_prompts(prompts, num=config.num_prompts, seed=config.seed)]


def _read(ctx: Context, version: VersionView, config: CampaignConfig, *, until: int) -> dict[str, DrawnPrompt]:
    """Return the prompts by their hash; the training split is read only if the validation split has fewer than `until`."""
    if version.kind not in PROMPT_KINDS or version.folder is None:
        raise InvalidInput(
            f"“{version.dataset}” is a dataset of kind {version.kind}, whose rows have no prompts.",
            remedy=f"Choose one of kind {', '.join(PROMPT_KINDS)}.",
            field="dataset",
        )
    prompts: dict[str, DrawnPrompt] = {}
    for split in ("val", "train") if config.allow_train else ("val",):
        for row in read_rows(ctx.artifacts.path(version.folder), split=split, limit=MAX_ROWS):
            messages = prompt_messages(row)
            if messages is None:
                continue
            messages = with_system(messages, config.system)
            prompts.setdefault(content_hash(messages), DrawnPrompt(messages, _category(row, config.category_column)))
        if len(prompts) >= until:
            break
    return prompts


def _category(row: dict[str, object], column: str) -> str:
    if not column:
        return ""
    if column not in row:
        raise InvalidInput(f"The dataset has no column {column!r}.", remedy=f"It has {', '.join(row)}.", field="category_column")
    return str(row[column] or "")[:80]
