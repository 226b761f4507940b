"""Preview of a change of a version: rows before and after, and some that go or come.

A short version is changed row by row, as the job does it. Of a long one, what counting can't tell is estimated from
rows drawn at random, with a 95 % confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.splits import SPLITS
from backend.domain.data.versions.changes import (
    Change,
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    Resplit,
)
from backend.domain.data.versions.conditions import check_change, meets, row_hash, rows_kept
from backend.domain.json_values import Row
from backend.domain.statistics.estimates import wilson_interval
from backend.errors import InvalidInput
from backend.infra.files.parquet import fetch_rows, iter_file_rows
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.rows import MAX_SCANNED_BYTES, RowView, read_rows
from backend.services.data.views import VersionView

MAX_EXACT = 5_000
"""Rows up to which a condition is tried on every row: a fifth of a second."""
MAX_HASHED = 50_000
"""Rows that are hashed for a preview of duplicates: two seconds, once."""
SAMPLED = 2_000
SEED = 0
EXAMPLES = 5
CRITICAL = 1.959964
"""z value of a 95 % interval."""


@dataclass(frozen=True)
class RowCount:
    """A number of rows, and the ends of its 95 % confidence interval; equal to it where rows were counted."""

    value: int
    low: int
    high: int

    @property
    def is_exact(self) -> bool:
        """Return whether the rows were counted."""
        return self.low == self.high


@dataclass(frozen=True)
class ChangePreview:
    """The rows of each split before and after a change. `basis` says what estimates rest on; empty: all rows were
    counted. `gone` are rows that would go, `staying` such that would stay; `come` rows of another version that would be
    added. None in place of `after`: it can't be told before it is made, and `basis` says why.
    """

    before: tuple[int, int]
    after: tuple[RowCount, RowCount] | None
    basis: str = ""
    gone: tuple[RowView, ...] = ()
    staying: tuple[RowView, ...] = ()
    come: tuple[RowView, ...] = ()

    @property
    def is_without_effect(self) -> bool:
        """Return whether all rows were counted and each stays in its split."""
        return (
            self.after is not None
            and all(count.is_exact for count in self.after)
            and tuple(count.value for count in self.after) == self.before
            and not (self.gone or self.come)
        )


def preview_change(ctx: Context, version: VersionView, change: Change) -> ChangePreview:
    """Return what a change would do to a ready version. Raises InvalidInput, as making it would, for a change that does
    not fit the kind, more rows than there are, or no train row left.
    """
    check_change(change, kind=DatasetKind(version.kind))
    if isinstance(change, Filter):
        preview = _filtered(ctx, version, change)
    elif isinstance(change, Merge):
        preview = _merged(ctx, version, resolve_version(ctx, change.other))
    elif isinstance(change, Resplit):
        preview = _split_anew(version, change)
    else:
        preview = _kept(ctx, version, change)
    if preview.after is not None and preview.after[0].high == 0:
        raise InvalidInput("After this change no train row is left.", remedy="Drop fewer rows.", field="change")
    return preview


def _kept(ctx: Context, version: VersionView, change: DropRows | DropDuplicates | KeepSample) -> ChangePreview:
    """Preview a change that marks rows by place."""
    before, total = _before(version), sum(_before(version))
    if isinstance(change, DropRows | KeepSample):
        stays = rows_kept(change, train=before[0], val=before[1])
    elif total > MAX_HASHED:
        return ChangePreview(before, None, "Equal rows are found when the version is made: too many to compare here.")
    else:
        stays = _first_of_equals(ctx.artifacts.path(str(version.folder)), change.loose)
    counts = int(stays[: before[0]].sum()), int(stays[before[0] :].sum())
    return ChangePreview(
        before,
        (_exactly(counts[0]), _exactly(counts[1])),
        gone=_examples(ctx, version, np.flatnonzero(~stays)),
        staying=_examples(ctx, version, np.flatnonzero(stays)),
    )


def _filtered(ctx: Context, version: VersionView, change: Filter) -> ChangePreview:
    def stays(row: Row) -> bool:
        return all(meets(row, condition) for condition in change.conditions) == change.keep

    before = _before(version)
    places, basis = _drawn(version)
    rows = dict(_rows_at(ctx, version, places))
    marks = np.array([stays(rows[place]) for place in places.tolist()], dtype=bool)
    is_val = places >= before[0]
    after = tuple(
        _scaled(int(marks[of].sum()), int(of.sum()), rows=number)
        for of, number in ((~is_val, before[0]), (is_val, before[1]))
    )
    return ChangePreview(
        before,
        (after[0], after[1]),
        basis,
        gone=_examples(ctx, version, places[~marks]),
        staying=_examples(ctx, version, places[marks]),
    )


def _merged(ctx: Context, version: VersionView, other: VersionView) -> ChangePreview:
    if other.kind != version.kind:
        raise InvalidInput(
            f"{other.label} holds rows of kind {other.kind}, and {version.label} of kind {version.kind}.",
            remedy=f"Choose a version of kind {version.kind}.",
            field="other",
        )
    before = _before(version)
    both = before[0] + _before(other)[0], before[1] + _before(other)[1]
    come = _examples(ctx, other, np.arange(sum(_before(other))))
    if not both[1]:
        return ChangePreview(before, (_exactly(both[0]), _exactly(0)), come=come)
    if both[1] > MAX_HASHED:
        most = RowCount(both[0], 0, both[0])
        return ChangePreview(
            before,
            (most, _exactly(both[1])),
            "Train rows that are also validation rows are left out when the version is made; at most these are left.",
            come=come,
        )
    held_out = [_held_out(ctx.artifacts.path(str(one.folder))) for one in (version, other)]
    counts, bases = [], []
    for one in (version, other):
        places, basis = _drawn(one, train_only=True)
        hashes = [row_hash(row) for _, row in _rows_at(ctx, one, places)]
        stay = sum(not any(row in val for val in held_out) for row in hashes)
        counts.append(_scaled(stay, len(places), rows=_before(one)[0]))
        bases.append(basis)
    train = RowCount(
        sum(count.value for count in counts),
        sum(count.value for count in counts) - round(math.hypot(*(count.value - count.low for count in counts))),
        sum(count.value for count in counts) + round(math.hypot(*(count.high - count.value for count in counts))),
    )
    return ChangePreview(before, (train, _exactly(both[1])), next(filter(None, bases), ""), come=come)


def _split_anew(version: VersionView, change: Resplit) -> ChangePreview:
    before = _before(version)
    total, share = sum(before), change.val_fraction
    if share == 0:
        return ChangePreview(before, (_exactly(total), _exactly(0)))
    expected, margin = round(total * share), math.ceil(CRITICAL * math.sqrt(total * share * (1 - share)))
    val = RowCount(expected, max(0, expected - margin), min(total, expected + margin))
    return ChangePreview(
        before,
        (RowCount(total - val.value, total - val.high, total - val.low), val),
        "A hash of each row's content says its split, so the share is met within the error of as many draws, and equal"
        " rows go together.",
    )


def _drawn(version: VersionView, *, train_only: bool = False) -> tuple[npt.NDArray[np.int64], str]:
    """Return places of rows to look at, ascending, and what they are of all rows; empty if they are all."""
    total = version.train_rows if train_only else sum(_before(version))
    if total <= MAX_EXACT:
        return np.arange(total), ""
    first = total if version.bytes <= MAX_SCANNED_BYTES else max(SAMPLED, total * MAX_SCANNED_BYTES // version.bytes)
    places = np.sort(np.random.default_rng(SEED).choice(first, size=SAMPLED, replace=False))
    of = f"{total:,} rows" if first == total else f"the first {first:,} of {total:,} rows"
    return places, f"Estimated from {SAMPLED:,} rows drawn at random from {of}, with 95 % confidence intervals."


def _scaled(stay: int, looked_at: int, *, rows: int) -> RowCount:
    """Return how many of `rows` stay if `stay` of those tried do."""
    if looked_at == rows:
        return _exactly(stay)
    if not looked_at:
        return RowCount(rows, 0, rows)
    low, high = wilson_interval(stay / looked_at, looked_at, critical=CRITICAL)
    return RowCount(round(rows * stay / looked_at), math.floor(rows * low), math.ceil(rows * high))


def _exactly(number: int) -> RowCount:
    return RowCount(number, number, number)


def _before(version: VersionView) -> tuple[int, int]:
    return version.train_rows, version.val_rows


def _rows_of(folder: Path, split: str) -> Iterator[Row]:
    file = folder / f"{split}.parquet"
    return iter_file_rows(file) if file.is_file() else iter(())


def _rows_at(ctx: Context, version: VersionView, places: npt.NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
    """Yield rows by place."""
    folder, first = ctx.artifacts.path(str(version.folder)), 0
    for split, number in zip(SPLITS, _before(version), strict=True):
        here = places[(places >= first) & (places < first + number)] - first
        if len(here) == number:
            yield from ((first + at, row) for at, row in enumerate(_rows_of(folder, split)))
        elif len(here):
            yield from ((first + at, row) for at, row in fetch_rows(folder / f"{split}.parquet", here.tolist()).items())
        first += number


def _examples(ctx: Context, version: VersionView, places: npt.NDArray[np.int64]) -> tuple[RowView, ...]:
    return tuple(read_rows(ctx, version, places[:EXAMPLES].tolist()))


@lru_cache(maxsize=16)  # the rows of a version never change
def _held_out(folder: Path) -> frozenset[int]:
    return frozenset(row_hash(row) for row in _rows_of(folder, "val"))


@lru_cache(maxsize=16)
def _first_of_equals(folder: Path, loose: bool) -> npt.NDArray[np.bool_]:
    """Mark one of each set of equal rows; a validation row takes precedence over train rows."""
    hashes = {
        split: np.array([row_hash(row, loose=loose) for row in _rows_of(folder, split)], dtype=np.uint64)
        for split in SPLITS
    }
    joined = np.concatenate([hashes["val"], hashes["train"]])
    marks = np.zeros(len(joined), dtype=bool)
    marks[np.unique(joined, return_index=True)[1]] = True
    split_at = len(hashes["val"])
    return np.concatenate([marks[split_at:], marks[:split_at]])
