"""Prompts of a campaign: held-out rows of a dataset, or the prompts of a file of completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import CampaignPrompt, Checkpoint, DatasetVersion, Run
from backend.domain.battles.campaign import (
    LONGEST_CATEGORY,
    CampaignConfig,
    Messages,
    content_hash,
    prompt_messages,
    with_system,
)
from backend.domain.data.kinds import PROMPT_KINDS, DatasetKind
from backend.domain.data.rows.display import displayable
from backend.domain.data.rows.mapping import apply_mapping
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.records import RECORD, file_row
from backend.domain.data.versions.provenance import VotesProvenance
from backend.domain.names import require_length
from backend.domain.wording import plural
from backend.errors import InvalidInput
from backend.infra.files.parquet import read_row_page
from backend.services.battles.contestants import Entry
from backend.services.context import Context
from backend.services.data.views import VersionView

MAX_ROWS = 100_000
PROMPT_COLUMNS = ("prompt", "question", "instruction")
"""Columns that hold the prompt of a row of kind records; the first that is not empty is used."""
T = TypeVar("T")


@dataclass(frozen=True)
class DrawnPrompt:
    """A prompt and its category, empty without one."""

    messages: Messages
    category: str = ""


def draw_from(
    ctx: Context, version: VersionView, config: CampaignConfig, checkpoint_ids: Sequence[str]
) -> list[DrawnPrompt]:
    """Draw a campaign's prompts from rows that no contestant trained on: the validation split, and the training split
    too if the config allows it or none of the checkpoints was trained on the dataset.

    Raises InvalidInput if there are too few, or no column of the categories.
    """
    trained = trained_on(ctx, version, checkpoint_ids)
    with_train = config.allow_train or not trained.names
    until = config.num_prompts + len(trained.prompts)
    distinct, num_repeated = _read(ctx, version, config, until=until, with_train=with_train)
    prompts = [prompt for digest, prompt in distinct.items() if config.allow_train or digest not in trained.prompts]
    if not distinct and with_train:
        columns = " In kind records it stands in a column prompt, question or instruction."
        raise InvalidInput(
            f"No row of “{version.label}” holds a prompt.{columns if version.kind == DatasetKind.RECORDS else ''}",
            remedy="Choose another dataset.",
            field="dataset",
        )
    if len(prompts) < config.num_prompts and not config.allow_train:
        num_learned = len(distinct) - len(prompts)
        reasons = [
            *([f"“{trained.names[0]}” trained on its other rows"] if not with_train else []),
            *([f"a contestant learned from votes on {num_learned:,} others"] if num_learned else []),
            *(
                [f"{plural(num_repeated, 'row')} repeat{'s' * (num_repeated == 1)} another's text"]
                if num_repeated
                else []
            ),
        ]
        cures = [
            *([f"use {plural(len(prompts), 'prompt')}"] if prompts else []),
            "choose another dataset",
            *(["turn on “Allow training rows” (`allow_train`)"] if not with_train or num_learned else []),
        ]
        remedy = f"{', '.join(cures[:-1])} or {cures[-1]}." if len(cures) > 1 else f"{cures[0]}."
        raise InvalidInput(
            f"{'' if with_train else 'The validation split of '}“{version.label}” has {len(prompts):,} distinct"
            f" held-out prompts, and {config.num_prompts:,} are needed"
            f"{': ' if reasons else ''}{', and '.join(reasons)}.",
            remedy=f"{remedy[0].upper()}{remedy[1:]}",
            field="num_prompts",
        )
    return sample_prompts(prompts, num=config.num_prompts, seed=config.seed)


@dataclass(frozen=True)
class TrainedOn:
    """Contestants that trained on a dataset (`names`), and the prompts (by hash) of campaigns they trained on."""

    names: tuple[str, ...]
    prompts: frozenset[str]


def trained_on(ctx: Context, version: VersionView, checkpoint_ids: Sequence[str]) -> TrainedOn:
    """Return which checkpoints a run trained on any version of a dataset, they or their ancestors, and the prompts of
    their votes.
    """
    names, voted = [], set[str]()
    with ctx.db.read() as session:
        dataset_id = session.scalar(select(DatasetVersion.dataset_id).where(DatasetVersion.id == version.id))
        for checkpoint_id in checkpoint_ids:
            versions = _ancestry(session, checkpoint_id)
            if any(row.dataset_id == dataset_id for row in versions):
                names.append(session.get_one(Checkpoint, checkpoint_id).name)
            voted |= {
                row["prompt_id"]
                for used in versions
                if isinstance(used.provenance, VotesProvenance)
                for row in used.provenance.rows
            }
        hashes = session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.id.in_(voted)))
        return TrainedOn(tuple(names), frozenset(hashes))


def _ancestry(session: Session, checkpoint_id: str) -> list[DatasetVersion]:
    """Return the dataset versions that a checkpoint and its ancestors were trained on."""
    versions, waiting, visited = [], [checkpoint_id], set[str]()
    while waiting:
        checkpoint = session.get(Checkpoint, waiting.pop())
        if checkpoint is None or checkpoint.id in visited:
            continue
        visited.add(checkpoint.id)
        run = session.get(Run, checkpoint.run_id) if checkpoint.run_id else None
        used = session.get(DatasetVersion, run.dataset_version_id) if run and run.dataset_version_id else None
        versions += [used] if used else []
        waiting += [parent for parent in (checkpoint.parent_id, run.base_id if run else None) if parent]
    return versions


def read_held_out_prompts(
    ctx: Context, version: VersionView, *, config: CampaignConfig, checkpoint_ids: Sequence[str]
) -> list[DrawnPrompt]:
    """Return the distinct held-out prompts of a dataset for these checkpoints, or all of them if the config allows
    training rows.

    Raises InvalidInput if its rows have no prompts.
    """
    trained = trained_on(ctx, version, checkpoint_ids)
    prompts, _ = _read(ctx, version, config, until=MAX_ROWS, with_train=config.allow_train or not trained.names)
    return [prompt for digest, prompt in prompts.items() if config.allow_train or digest not in trained.prompts]


def sample_prompts(prompts: list[T], *, num: int, seed: int) -> list[T]:
    """Return at most `num` prompts, drawn with the seed, in the dataset's order."""
    if len(prompts) <= num:
        return prompts
    return [prompts[index] for index in sorted(Random(seed).sample(range(len(prompts)), num))]


def prompts_of_entries(entries: Sequence[Entry], config: CampaignConfig) -> list[DrawnPrompt]:
    """Draw a campaign's prompts from the first file of completions. Raises InvalidInput without a file."""
    prompts = next((list(entry.prompts.values()) for entry in entries if entry.prompts), [])
    if not prompts:
        raise InvalidInput("The campaign has no prompts.", remedy="Choose a dataset.", field="dataset")
    return [DrawnPrompt(messages) for messages in sample_prompts(prompts, num=config.num_prompts, seed=config.seed)]


def _read(
    ctx: Context, version: VersionView, config: CampaignConfig, *, until: int, with_train: bool
) -> tuple[dict[str, DrawnPrompt], int]:
    """Return the prompts by their hash, and how many rows repeat another's; the training split is read only if
    validation has fewer than `until`.
    """
    if version.kind not in PROMPT_KINDS or version.folder is None:
        raise InvalidInput(
            f"“{version.dataset}” is a dataset of kind {version.kind}, whose rows have no prompts.",
            remedy=f"Choose one of kind {', '.join(PROMPT_KINDS)}.",
            field="dataset",
        )
    prompts: dict[str, DrawnPrompt] = {}
    num_rows = 0
    for split in ("val", "train") if with_train else ("val",):
        for row in read_row_page(ctx.artifacts.path(version.folder), split=split, limit=MAX_ROWS):
            messages = _messages(row, version.kind)
            if messages is None:
                continue
            num_rows += 1
            messages = with_system(messages, config.system)
            prompts.setdefault(content_hash(messages), DrawnPrompt(messages, _category(row, config.category_column)))
        if len(prompts) >= until:
            break
    return prompts, num_rows - len(prompts)


def _messages(row: Mapping[str, object], kind: str) -> Messages | None:
    """Return a row's prompt, for a row as its file has it as an import of kind prompts reads it; None without one."""
    if kind != DatasetKind.RECORDS:
        return prompt_messages(row)
    source = file_row(row)
    column = next((name for name in PROMPT_COLUMNS if source.get(name)), None)
    if column is None:
        return None
    mapping = {column: "prompt", **({"input": "input"} if column == "instruction" and "input" in source else {})}
    try:
        return prompt_messages(apply_mapping(source, kind=DatasetKind.PROMPTS, mapping=mapping))
    except RowProblem:
        return None


def _category(row: Mapping[str, object], column: str) -> str:
    if not column:
        return ""
    columns = {**row, **file_row(row)}
    columns.pop(RECORD, None)
    if column not in columns:
        raise InvalidInput(
            f"The dataset has no column {column!r}. It has {', '.join(map(displayable, columns))}.",
            remedy=(
                f"If its file has a column {column!r}, import it again as kind records, which keeps every column, and"
                " choose that dataset."
            ),
            field="category_column",
        )
    category = displayable(str(columns[column] or ""))
    what = f"In the column {column!r} the category"
    return require_length(category, what=what, limit=LONGEST_CATEGORY, field="category_column")
