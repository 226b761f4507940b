"""Choose the items of an evaluation and its few-shot examples. Knows no network."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.domain.data.rows.mapping import canonical_json
from backend.errors import InvalidInput, NotFound
from backend.infra.files.parquet import iter_rows

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One row to score. `hash` is that of its content, so evaluations of different checkpoints can be joined on it."""

    hash: str
    position: int
    row: Row


@dataclass(frozen=True)
class Scored:
    """The result of one item: `values` by metric, and `shown`, what a page displays."""

    hash: str
    position: int
    values: dict[str, float]
    shown: dict[str, Any]


def read_items(folder: Path, *, split: str) -> list[Item]:
    """Read a split (`train`, `val`, or `all` of both). A repeated row gets a hash of its own, by its occurrence."""
    occurrences: Counter[str] = Counter()
    items = []
    for position, row in enumerate(_rows(folder, split)):
        digest = hashlib.sha256(canonical_json(row).encode()).hexdigest()
        occurrences[digest] += 1
        if occurrences[digest] > 1:
            digest = hashlib.sha256(f"{digest} {occurrences[digest]}".encode()).hexdigest()
        items.append(Item(digest, position, row))
    if not items:
        raise InvalidInput("The benchmark has no rows in this split.", remedy="Choose another split.", field="split")
    return items


def _rows(folder: Path, split: str) -> Iterator[Row]:
    files = [folder / f"{name}.parquet" for name in (("train", "val") if split == "all" else (split,))]
    present = [file for file in files if file.is_file()]
    if not present:
        raise NotFound(f"The dataset has no split {split!r}.", remedy="Choose another split, or import the dataset again.", field="split")
    for file in present:
        yield from iter_rows(file)


def choose_items(items: list[Item], *, shots: int, limit: int | None, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (examples, items to score), both drawn with the seed; no example is scored. Items stay in the dataset's order.

    Raises InvalidInput if no item remains to score.
    """
    if shots >= len(items):
        raise InvalidInput(f"{shots} examples of {len(items)} items leave nothing to score.", remedy="Show fewer examples.", field="shots")
    order = random.Random(f"examples {seed}").sample(range(len(items)), shots)
    rest = [item for index, item in enumerate(items) if index not in set(order)]
    if limit is not None and limit < len(rest):
        rest = sorted(random.Random(f"items {seed}").sample(rest, limit), key=lambda item: item.position)
    return [items[index] for index in order], rest
