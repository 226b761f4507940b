"""Compare two versions: added, removed, unchanged and moved rows, changes of sizes, and examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.splits import SPLITS, Split
from backend.domain.data.versions.conditions import FIELDS_OF_KIND
from backend.domain.data.versions.diff import pair_by_key, surplus
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from backend.infra.files.row_index import SizeStats, SplitIndex, index_file, read_row, read_split_index
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.views import VersionView

EXAMPLES = 20
ROWS_PER_S = 25_000  # index speed on one core, to estimate the time


@dataclass(frozen=True)
class SplitCounts:
    """Rows of a split before and after; `removed` and `added` have no partner in the other version's split."""

    split: str
    before: int
    after: int
    removed: int
    added: int


@dataclass(frozen=True)
class FieldSizes:
    """Sizes of a field before and after, over the training rows, or the validation rows without any."""

    field: str
    split: str
    before: SizeStats
    after: SizeStats


@dataclass(frozen=True)
class DiffExample:
    """A row that was removed, added, or changed (same prompt, different answer)."""

    what: Literal["removed", "added", "changed"]
    before: Row | None
    after: Row | None


@dataclass(frozen=True)
class VersionDiff:
    """Difference of two versions. Rows are compared by content, in any order; `moved` ones changed their split.

    `changed` counts pairs of a removed and an added row with the same prompt; they count as `removed` and `added` too.
    """

    before: VersionView
    after: VersionView
    removed: int
    added: int
    unchanged: int
    moved: int
    changed: int
    splits: tuple[SplitCounts, ...]
    fields: tuple[FieldSizes, ...]
    examples: tuple[DiffExample, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether both versions hold the same rows in the same splits."""
        return not (self.removed or self.added or self.moved)


def rows_to_read(ctx: Context, versions: tuple[VersionView, ...]) -> int:
    """Return how many rows a comparison has to read first; rows of versions compared before are indexed."""
    total = 0
    for version in {version.id: version for version in versions}.values():
        for split, rows in (("train", version.train_rows), ("val", version.val_rows)):
            if version.folder and not index_file(ctx.artifacts.path(version.folder), split).is_file():
                total += rows
    return total


def compare_versions(
    ctx: Context, before: str, after: str, *, examples: int = EXAMPLES, progress: Callable[[float], None] | None = None
) -> VersionDiff:
    """Compare two versions (`name@3` or ids) of the same kind.

    Memory is about sixteen bytes a row. `progress` is called with the share done. Raises InvalidInput for two kinds,
    Conflict for a version that is not ready.
    """
    one, other = resolve_version(ctx, before), resolve_version(ctx, after)
    if one.kind != other.kind:
        raise InvalidInput(
            f"{one.label} holds rows of kind {one.kind}, and {other.label} of kind {other.kind}.",
            remedy="Compare versions of one kind.",
            field="after",
        )
    read = _reader(ctx, rows_to_read(ctx, (one, other)), progress)
    indices = {
        (side, split): read(version, split) for side, version in (("before", one), ("after", other)) for split in SPLITS
    }
    old, new = (np.concatenate([indices[side, split].hashes for split in SPLITS]) for side in ("before", "after"))
    old_keys, new_keys = (
        np.concatenate([indices[side, split].keys for split in SPLITS]) for side in ("before", "after")
    )
    gone, come = surplus(old, new), surplus(new, old)
    paired = pair_by_key(gone, old_keys, come, new_keys, limit=examples)
    splits = tuple(_count(split, indices["before", split], indices["after", split]) for split in SPLITS)
    unchanged = len(old) - int(gone.sum())
    find = _finder(ctx, one, other)
    return VersionDiff(
        before=one,
        after=other,
        removed=int(gone.sum()),
        added=int(come.sum()),
        unchanged=unchanged,
        moved=unchanged - sum(count.before - count.removed for count in splits),
        changed=paired.num_changed,
        splits=splits,
        fields=_fields(one, indices),
        examples=(
            *(DiffExample("changed", find("before", a), find("after", b)) for a, b in paired.changed),
            *(DiffExample("removed", find("before", place), None) for place in paired.removed),
            *(DiffExample("added", None, find("after", place)) for place in paired.added),
        ),
    )


def _reader(
    ctx: Context, total: int, progress: Callable[[float], None] | None
) -> Callable[[VersionView, str], SplitIndex]:
    done = 0

    def report_rows(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(min(1.0, done / max(1, total)))

    return lambda version, split: read_split_index(
        _folder(ctx, version), split=split, kind=DatasetKind(version.kind), progress=report_rows
    )


def _folder(ctx: Context, version: VersionView) -> Path:
    assert version.folder is not None
    return ctx.artifacts.path(version.folder)


def _finder(ctx: Context, one: VersionView, other: VersionView) -> Callable[[str, int], dict[str, object] | None]:
    """Return a function that reads a row by its index among all rows, train before val."""

    def find(side: str, place: int) -> dict[str, object] | None:
        version = one if side == "before" else other
        split, at = ("train", place) if place < version.train_rows else ("val", place - version.train_rows)
        return read_row(_folder(ctx, version), split=split, place=at)

    return find


def _count(split: str, old: SplitIndex, new: SplitIndex) -> SplitCounts:
    removed, added = int(surplus(old.hashes, new.hashes).sum()), int(surplus(new.hashes, old.hashes).sum())
    return SplitCounts(split, len(old.hashes), len(new.hashes), removed, added)


def _fields(version: VersionView, indices: dict[tuple[str, Split], SplitIndex]) -> tuple[FieldSizes, ...]:
    return tuple(
        FieldSizes(field, split, indices["before", split].sizes[field], indices["after", split].sizes[field])
        for field in FIELDS_OF_KIND[DatasetKind(version.kind)]
        for split in SPLITS
        if any(indices[side, split].sizes[field].filled for side in ("before", "after"))
    )
