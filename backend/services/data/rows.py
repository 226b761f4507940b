"""Rows of a version as its page lists them: searched, filtered, sorted, and read a page at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.display import RowLayout, lay_out
from backend.domain.data.splits import SPLITS, Split
from backend.domain.data.versions.conditions import FIELDS_OF_KIND, TURNS
from backend.errors import InvalidInput, NotFound
from backend.infra.files.parquet import fetch_rows
from backend.infra.files.row_index import RowSizes, read_sizes, search_rows
from backend.services.context import Context
from backend.services.data.reports import list_data_reports, read_row_tokens
from backend.services.data.views import VersionView

Places = npt.NDArray[np.int64]
Order = Literal["row", "longest", "shortest", "turns"]
Unit = Literal["characters", "tokens"]
MAX_SCANNED_BYTES = 4 * 2**30
"""Size above which only the first rows of a version are searched, filtered and sorted: some ten seconds."""


@dataclass(frozen=True, kw_only=True)
class RowQuery:
    """Query of a list of rows. `part` is one of `FIELDS_OF_KIND`; with no `text` it asks for rows that have
    the part. Lengths are in `unit`.
    """

    text: str = ""
    part: str = ""
    split: Split | None = None
    label: Literal["good", "bad"] | None = None
    at_least: int | None = None
    at_most: int | None = None
    unit: Unit = "characters"
    order: Order = "row"

    @property
    def is_plain(self) -> bool:
        """Return whether all rows of a split pass, in the file's order."""
        return self == RowQuery(split=self.split, unit=self.unit)


@dataclass(frozen=True)
class FoundRows:
    """Rows that pass, in order, as places: counted from 0 through train, then validation. `scanned` counts the
    rows that were read: fewer than the version has if it is very large.
    """

    places: Places
    scanned: int


@dataclass(frozen=True)
class RowView:
    """One row. `number` counts from 1 in its split; `tokens` are those of the newest data report."""

    place: int
    split: Split
    number: int
    layout: RowLayout
    tokens: int | None

    @property
    def name(self) -> str:
        """`train-12`, as addresses refer to it."""
        return f"{self.split}-{self.number}"


def parts_of_rows(version: VersionView) -> list[str]:
    """Return the parts of a version's rows that a search can be limited to."""
    return [part for part in FIELDS_OF_KIND[DatasetKind(version.kind)] if part not in (TURNS, "label", "answer")]


def has_turns(version: VersionView) -> bool:
    """Return whether the rows are conversations."""
    return TURNS in FIELDS_OF_KIND[DatasetKind(version.kind)]


def token_counts(ctx: Context, version: VersionView) -> tuple[npt.NDArray[np.int32], str] | None:
    """Return the tokens of each row as the newest data report counted them, and its tokenizer; None without one."""
    for view in list_data_reports(ctx, version.id):
        if (tokens := read_row_tokens(ctx, view)) is not None and len(tokens) == _total(version):
            return tokens, view.source_name
    return None


def find_rows(ctx: Context, version: VersionView, query: RowQuery) -> FoundRows:
    """Return the rows that pass a query. Raises InvalidInput naming the value for a part that the kind lacks, a length
    that is no length, or tokens that no report has counted.
    """
    _check(version, query)
    total = _total(version)
    first, last = _bounds(version, query.split)
    if version.folder is None or query.is_plain:
        return FoundRows(np.arange(first, last if version.folder else first), total)
    scanned = total if version.bytes <= MAX_SCANNED_BYTES else max(1, total * MAX_SCANNED_BYTES // version.bytes)
    folder = ctx.artifacts.path(version.folder)
    if query.text or query.part:
        places = _searched(folder, query.text, query.part, scanned)
        places = places[(places >= first) & (places < last)]
    else:
        places = np.arange(first, min(last, scanned))
    if (query.label, query.at_least, query.at_most, query.order) == (None, None, None, "row"):
        return FoundRows(places, scanned)
    sizes = _sizes(folder, scanned)
    counted = token_counts(ctx, version) if query.unit == "tokens" else None
    if query.unit == "tokens" and counted is None:
        raise InvalidInput(
            f"The tokens of {version.label} have not been counted.",
            remedy="Run its data report, or choose characters.",
            field="unit",
        )
    lengths = counted[0] if counted is not None else sizes.characters
    if query.label is not None:
        places = places[sizes.labels[places] == (query.label == "good")]
    if query.at_least is not None:
        places = places[lengths[places] >= query.at_least]
    if query.at_most is not None:
        places = places[lengths[places] <= query.at_most]
    if query.order != "row":
        keys = sizes.turns if query.order == "turns" else lengths
        sign = 1 if query.order == "shortest" else -1
        places = places[np.argsort(sign * keys[places], kind="stable")]
    return FoundRows(places, scanned)


def read_rows(ctx: Context, version: VersionView, places: Sequence[int]) -> list[RowView]:
    """Return some rows by place, in the order given."""
    if version.folder is None:
        return []
    folder, counted = ctx.artifacts.path(version.folder), token_counts(ctx, version)
    train = version.train_rows
    rows: dict[int, dict[str, object]] = {}
    for split, first, last in (("train", 0, train), ("val", train, _total(version))):
        numbers = [place - first for place in places if first <= place < last]
        if numbers:
            fetched = fetch_rows(folder / f"{split}.parquet", numbers)
            rows |= {first + number: row for number, row in fetched.items()}
    return [
        RowView(
            place,
            SPLITS[place >= train],
            place - (train if place >= train else 0) + 1,
            lay_out(rows[place]),
            int(counted[0][place]) if counted is not None else None,
        )
        for place in places
        if place in rows
    ]


def place_of_row(version: VersionView, name: str) -> int:
    """Return the place of a row by its name (`train-12`). Raises NotFound naming what the version has."""
    split, _, number = name.partition("-")
    counts = {"train": version.train_rows, "val": version.val_rows}
    if split in counts and re.fullmatch("[0-9]{1,15}", number) and 1 <= int(number) <= counts[split]:
        return int(number) - 1 + (version.train_rows if split == "val" else 0)
    has = " and ".join(f"{split}-1 to {split}-{count}" for split, count in counts.items() if count)
    raise NotFound(f"There is no row “{name[:60]}”.", remedy=f"{version.label} has {has}.", field="row")


def _check(version: VersionView, query: RowQuery) -> None:
    if query.part and query.part not in parts_of_rows(version):
        raise InvalidInput(
            f"Rows of kind {version.kind} have no part “{query.part[:60]}”.",
            remedy=f"They have {', '.join(parts_of_rows(version))}.",
            field="part",
        )
    low, high = query.at_least, query.at_most
    if low is not None and high is not None and low > high:
        raise InvalidInput(
            f"No length is at least {low:,} and at most {high:,} {query.unit}.",
            remedy="Give the smaller number first.",
            field="at_least",
        )


def _total(version: VersionView) -> int:
    return version.train_rows + version.val_rows


def _bounds(version: VersionView, split: Split | None) -> tuple[int, int]:
    return (version.train_rows if split == "val" else 0, version.train_rows if split == "train" else _total(version))


@lru_cache(maxsize=4)  # the rows of a version never change; ten million rows are 170 MB
def _sizes(folder: Path, limit: int) -> RowSizes:
    return read_sizes(folder, limit=limit)


@lru_cache(maxsize=8)
def _searched(folder: Path, text: str, part: str, limit: int) -> Places:
    return np.flatnonzero(search_rows(folder, text, part=part, limit=limit))
