"""Compare runs: group them by config without seed, test differences against seed noise, list obstacles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Dataset, DatasetVersion, Job, Run, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.states import Status
from backend.domain.training.comparisons import (
    Aspect,
    LossBasis,
    Obstacle,
    SeedComparison,
    SeedGroup,
    Side,
    compare_seeds,
    find_obstacles,
    seeds_needed,
)
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import distinguishing_values
from backend.domain.training.objectives import label_of
from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.training.views import unique_names

MAX_SIBLINGS = 200
MAX_LINEAGE = 100


@dataclass(frozen=True)
class RunLoss:
    """The last validation losses of a finished run; `val_bpb` is None where bits per byte were not measured."""

    id: str
    seed: int
    val_loss: float
    val_bpb: float | None


@dataclass(frozen=True)
class ConfigGroup:
    """Finished runs of one config, picked ones first. `label` names the group."""

    label: str
    runs: tuple[RunLoss, ...]
    picked: tuple[str, ...]
    basis: LossBasis

    @cached_property
    def losses(self) -> SeedGroup:
        """The last val_loss of each seed; a seed that was run twice counts once."""
        return SeedGroup(tuple({run.seed: run.val_loss for run in reversed(self.runs)}.values()))

    @cached_property
    def bits_per_byte(self) -> SeedGroup | None:
        """The last val_bpb of each seed, or None where a run has none."""
        by_seed = {run.seed: run.val_bpb for run in reversed(self.runs)}
        known = tuple(value for value in by_seed.values() if value is not None)
        return SeedGroup(known) if len(known) == len(by_seed) else None

    @property
    def free_seed(self) -> int:
        """A seed that no run of the group has."""
        return max(run.seed for run in self.runs) + 1


@dataclass(frozen=True)
class GroupComparison:
    """Two groups, the better first. Without `obstacles` they are compared by val_loss.

    If the only obstacle is a different tokenizer they are compared by bits per byte, if both have them; else `result`
    is None. `needed`: seeds each to detect a difference of this size.
    """

    better: ConfigGroup
    other: ConfigGroup
    result: SeedComparison | None
    needed: int | None = None
    obstacles: tuple[Obstacle, ...] = ()


@dataclass(frozen=True)
class RunsComparison:
    """`obstacles` to comparing the val_loss of the picked runs; `groups` keep comparable ones together, best first.
    `validated`: the part of the val split that each picked run is validated on, by its name; empty if all are equal.
    """

    obstacles: tuple[Obstacle, ...]
    validated: Mapping[str, str]
    groups: tuple[ConfigGroup, ...]
    comparisons: tuple[GroupComparison, ...]


def compare_runs(ctx: Context, run_ids: Sequence[str]) -> RunsComparison:
    """Compare picked runs by the seeds of their configs.

    All finished runs of the same dataset version and config count, picked or not. A run that has
    not finished, was imported or measured no val_loss belongs to no group, but may be an obstacle.
    """
    with ctx.db.read() as session:
        order = {run_id: place for place, run_id in enumerate(run_ids)}
        picked = sorted(session.scalars(select(Run).where(Run.id.in_(run_ids))), key=lambda run: order[run.id])
        bases = {run.id: loss_basis(ctx, session, run) for run in picked}
        siblings = _siblings(session, picked)
    names = dict(zip(unique_names(picked), picked, strict=True))
    obstacles = find_obstacles({name: bases[run.id] for name, run in names.items()})
    validated = {name: _validated(run.config) for name, run in names.items() if run.config}
    groups = []
    for key, first in {_key(run, run.config): run for run in reversed(picked) if run.config}.items():
        same = [run for run in siblings if run.config and _key(run, run.config) == key]
        if same:
            same.sort(key=lambda run: order.get(run.id, len(order)))
            groups.append(_group(same, run_ids, bases[first.id]))
    by_basis: dict[tuple[str | None, ...], list[ConfigGroup]] = {}
    for group in sorted(
        groups, key=lambda group: min(order[run_id] for run_id in group.picked) if group.picked else len(order)
    ):
        by_basis.setdefault(group.basis.key, []).append(group)
    classes = [sorted(members, key=lambda group: group.losses.mean) for members in by_basis.values()]
    comparisons = [_compare(members[0], other) for members in classes for other in members[1:]]
    comparisons += [_compare(classes[0][0], members[0]) for members in classes[1:]]
    return RunsComparison(
        obstacles,
        validated if len(set(validated.values())) > 1 else {},
        tuple(group for members in classes for group in members),
        tuple(comparisons),
    )


def _compare(first: ConfigGroup, second: ConfigGroup) -> GroupComparison:
    obstacles = find_obstacles({first.label: first.basis, second.label: second.basis})
    one: SeedGroup | None = first.losses
    two: SeedGroup | None = second.losses
    if obstacles:
        by_bytes = {obstacle.aspect for obstacle in obstacles} == {Aspect.TOKENIZER}
        one, two = (first.bits_per_byte, second.bits_per_byte) if by_bytes else (None, None)
    if one is None or two is None:
        return GroupComparison(first, second, None, obstacles=obstacles)
    if two.mean < one.mean:
        first, second, one, two = second, first, two, one
    result = compare_seeds(one, two)
    return GroupComparison(first, second, result, None if result.is_beyond_noise else seeds_needed(one, two), obstacles)


def _siblings(session: Session, picked: Sequence[Run]) -> list[Run]:
    """Return the finished runs of the picked runs' dataset versions that measured val_loss."""
    query = (
        select(Run)
        .join(Job, Job.id == Run.job_id)
        .where(
            Run.dataset_version_id.in_({run.dataset_version_id for run in picked}),
            Job.status == Status.FINISHED.value,
            Run.archived_at.is_(None),
        )
        .order_by(Run.created_at.desc())
        .limit(MAX_SIBLINGS)
    )
    return [run for run in session.scalars(query) if _last(run, "val_loss") is not None]


def _group(runs: Sequence[Run], picked: Sequence[str], basis: LossBasis) -> ConfigGroup:
    losses = tuple(
        RunLoss(
            run.id,
            run.config.seed if run.config else 1,
            float(_last(run, "val_loss") or 0.0),
            _last(run, "val_bpb"),
        )
        for run in runs
    )
    return ConfigGroup(
        label=runs[0].name, runs=losses, picked=tuple(run.id for run in runs if run.id in picked), basis=basis
    )


def loss_basis(ctx: Context, session: Session, run: Run) -> LossBasis:
    """Return what a run's val_loss is measured with. Runs of another basis are not comparable."""
    config = run.config
    if config is None:
        unknown = Side(None, "unknown in an imported log")
        return LossBasis(Side(run.objective, label_of(run.objective)), Side("", ""), unknown, unknown)
    version = session.get(DatasetVersion, run.dataset_version_id) if run.dataset_version_id else None
    dataset = session.get(Dataset, version.dataset_id) if version else None
    data = Side(version.id, f"{dataset.name}@{version.number}") if version and dataset else Side(None, config.dataset)
    settings: dict[str, object] = {}
    if config.objective.samples:  # compared by the sum of rewards, for answers of this length
        settings = config.grpo.model_dump(mode="json", include={"rewards", "max_new_tokens"})
    elif config.objective.facts.settings:  # the validation loss depends on settings
        settings = config.preference.model_dump(mode="json", exclude_defaults=True)
    loss = Side(
        json.dumps(settings, sort_keys=True),
        ", ".join(f"{name} {value}" for name, value in settings.items()) or "defaults",
    )
    return LossBasis(
        Side(run.objective, label_of(run.objective)),
        loss,
        data,
        _tokenizer(ctx, session, run),
    )


def measured_rows(run: Run) -> tuple[object, ...]:
    """Return what else decides the value of a validation: how many rows it takes, how long the windows of a text are,
    and the reference that preferences are measured against. Runs of another are close, not equal.
    """
    config = run.config
    if config is None:
        return ()
    windows = config.context if config.objective.pretrains else None
    reference = run.base_id if config.objective.facts.has_reference else None
    return config.eval_batches * config.micro_batch, windows, reference


def _validated(config: RunConfig) -> str:
    """Return the part of the val split that a run is validated on, if that has as many rows."""
    rows = config.eval_batches * config.micro_batch
    if config.objective.pretrains:
        return f"{plural(rows, 'sequence')} of {config.context:,} tokens"
    return plural(rows, "row")


def _tokenizer(ctx: Context, session: Session, run: Run) -> Side:
    """Return the tokenizer a run was trained with: its own, or that of the first ancestor of its base.

    Two with the same tokenizer.json are the same, regardless of name.
    """
    checkpoint = session.get(Checkpoint, run.base_id) if run.base_id else None
    for _ in range(MAX_LINEAGE):
        above = (
            session.get(Checkpoint, checkpoint.parent_id) if checkpoint is not None and checkpoint.parent_id else None
        )
        if above is None:
            break
        checkpoint = above
    first = session.get(Run, checkpoint.run_id) if checkpoint is not None and checkpoint.run_id else run
    tokenizer = session.get(Tokenizer, first.tokenizer_id) if first is not None and first.tokenizer_id else None
    if tokenizer is not None:
        return Side(_content(ctx, tokenizer.folder) or tokenizer.id, tokenizer.name)
    if checkpoint is not None:
        return Side(_content(ctx, checkpoint.folder) or checkpoint.id, f"that of {checkpoint.name}")
    return Side(None, "not known")


def _content(ctx: Context, folder: str | None) -> str | None:
    file = ctx.artifacts.path(f"{folder}/tokenizer.json") if folder else None
    return _digest(file, file.stat().st_mtime_ns) if file is not None and file.is_file() else None


@lru_cache(maxsize=512)
def _digest(file: Path, _changed_ns: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _last(run: Run, metric: str) -> float | None:
    return run.summary.last.get(metric)


def _key(run: Run, config: RunConfig) -> str:
    """Hash the values that distinguish experiments; replicates share the key."""
    inline = (
        config.architecture.model_dump(mode="json") if isinstance(config.architecture, ArchitectureConfig) else None
    )
    rows = [run.dataset_version_id, run.base_id, run.tokenizer_id, run.architecture_id, inline]
    text = json.dumps([distinguishing_values(config), rows], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
