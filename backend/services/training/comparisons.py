"""Runs laid beside each other: which share a config but for the seed, and whether what differs is more than the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.db.tables import Job, Run
from backend.domain.jobs.states import Status
from backend.domain.training.seed_noise import SeedComparison, SeedGroup, compare_seeds, seeds_needed
from backend.services.context import Context

NO_DIFFERENCE = frozenset({"name", "seed", "queue", "priority", "trackers", "sample_prompts", "sample_tokens", "keep_last"})
"""Fields that change nothing of what is learned, and the seed."""
MOST_SIBLINGS = 200


@dataclass(frozen=True)
class ConfigGroup:
    """Finished runs of one config: `runs` are (id, name, seed, last val_loss), those that were picked first. `label` names the group."""

    label: str
    runs: tuple[tuple[str, str, int, float], ...]
    picked: tuple[str, ...]

    @property
    def losses(self) -> SeedGroup:
        """The last val_loss of each seed; a seed that was run twice counts once."""
        by_seed = {seed: loss for _, _, seed, loss in reversed(self.runs)}
        return SeedGroup(tuple(by_seed.values()))

    @property
    def free_seed(self) -> int:
        """A seed that none of them had."""
        return max(seed for _, _, seed, _ in self.runs) + 1


@dataclass(frozen=True)
class GroupComparison:
    """Two groups, the better first. `needed`: seeds each that a difference as large as this one would need to be seen."""

    better: ConfigGroup
    other: ConfigGroup
    result: SeedComparison
    needed: int | None


def compare_by_seed(ctx: Context, run_ids: Sequence[str]) -> tuple[list[ConfigGroup], list[GroupComparison]]:
    """Return the groups that picked runs belong to, best first, and the best one against each other group.

    Runs of the same dataset version and config count, whether they were picked or not: every finished seed is evidence. A run that has
    not finished, was imported or measured no val_loss belongs to no group.
    """
    with ctx.db.read() as session:
        picked = [run for run in session.scalars(select(Run).where(Run.id.in_(run_ids))) if run.config]
        keys = {_key(run): run for run in picked}
        versions = {run.dataset_version_id for run in picked}
        query = (
            select(Run)
            .join(Job, Job.id == Run.job_id)
            .where(Run.dataset_version_id.in_(versions), Job.status == Status.FINISHED.value, Run.archived_at.is_(None))
            .order_by(Run.created_at.desc())
            .limit(MOST_SIBLINGS)
        )
        finished = {run.id: run for run in session.scalars(query)}
    found: dict[str, list[Run]] = {key: [] for key in keys}
    order = {run_id: place for place, run_id in enumerate(run_ids)}
    for run in sorted(finished.values(), key=lambda run: order.get(run.id, len(order))):
        key = _key(run)
        if key in found and _loss(run) is not None:
            found[key].append(run)
    groups = sorted((_group(runs, run_ids) for runs in found.values() if runs), key=lambda group: group.losses.mean)
    comparisons = []
    for other in groups[1:]:
        result = compare_seeds(groups[0].losses, other.losses)
        needed = None if result.is_beyond_noise else seeds_needed(groups[0].losses, other.losses)
        comparisons.append(GroupComparison(groups[0], other, result, needed))
    return groups, comparisons


def _group(runs: Sequence[Run], picked: Sequence[str]) -> ConfigGroup:
    lines = tuple((run.id, run.name, int(run.config.get("seed", 1)), float(_loss(run) or 0.0)) for run in runs)
    return ConfigGroup(label=runs[0].name, runs=lines, picked=tuple(run.id for run in runs if run.id in picked))


def _loss(run: Run) -> float | None:
    value = ((run.summary or {}).get("last") or {}).get("val_loss")
    return float(value) if value is not None else None


def _key(run: Run) -> str:
    config: dict[str, Any] = {name: value for name, value in run.config.items() if name not in NO_DIFFERENCE}
    text = json.dumps([config, run.dataset_version_id, run.base_id], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
