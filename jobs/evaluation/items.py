"""Choose the items of an evaluation and its few-shot examples. Knows no network."""

from __future__ import annotations

import gc
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.splits import SPLITS
from backend.domain.json_values import Row
from backend.errors import InvalidInput, NotFound
from backend.infra.files.parquet import iter_file_rows


@dataclass(frozen=True)
class Item:
    """One row to score. `hash` is that of its content, so evaluations of different checkpoints can be joined on it."""

    hash: str
    position: int
    row: Row


@dataclass(frozen=True)
class ScoredItem:
    """The result of one item: `values` by metric, and `shown`, what a page displays."""

    hash: str
    position: int
    values: dict[str, float]
    shown: dict[str, Any]


def read_split(folder: Path, *, split: str) -> list[Row]:
    """Read the rows of a split (`train`, `val`, or `all` of both). Raises NotFound, InvalidInput if empty."""
    with _no_garbage_collection():
        rows = list(_rows(folder, split))
    if not rows:
        raise InvalidInput("The benchmark has no rows in this split.", remedy="Choose another split.", field="split")
    return rows


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the search for cycles: rows have none, and it takes half the time of reading a hundred thousand of them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _rows(folder: Path, split: str) -> Iterator[Row]:
    files = [folder / f"{name}.parquet" for name in (SPLITS if split == "all" else (split,))]
    present = [file for file in files if file.is_file()]
    if not present:
        raise NotFound(
            f"The dataset has no split {split!r}.",
            remedy="Choose another split, or import the dataset again.",
            field="split",
        )
    for file in present:
        yield from iter_file_rows(file)


def make_items(rows: Sequence[Row], positions: Sequence[int]) -> list[Item]:
    """Return rows as items. A repeated row gets a hash of its own, by its occurrence among all rows.

    Only rows that may equal one of the chosen are hashed: a limit of 200 does not pay for 100,000.
    """
    candidates: dict[tuple[Any, ...], list[int]] = {}
    with _no_garbage_collection():
        for position, row in enumerate(rows):
            candidates.setdefault(_plain_values(row), []).append(position)
    hashes: dict[int, str] = {}
    for key in {_plain_values(rows[position]) for position in positions}:
        hashes |= _hash_rows(rows, candidates[key])
    return [Item(hashes[position], position, rows[position]) for position in positions]


def _plain_values(row: Row) -> tuple[Any, ...]:
    return tuple(value for value in row.values() if isinstance(value, str | int))


def _hash_rows(rows: Sequence[Row], positions: Sequence[int]) -> dict[int, str]:
    occurrences: Counter[str] = Counter()
    hashes = {}
    for position in positions:
        digest = hashlib.sha256(canonical_json(rows[position]).encode()).hexdigest()
        occurrences[digest] += 1
        if occurrences[digest] > 1:
            digest = hashlib.sha256(f"{digest} {occurrences[digest]}".encode()).hexdigest()
        hashes[position] = digest
    return hashes


def choose_items(rows: Sequence[Row], *, shots: int, limit: int | None, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (examples, items to score), both drawn with the seed; no example is scored. Items stay in the dataset's
    order.

    Raises InvalidInput if no item remains to score.
    """
    if shots >= len(rows):
        raise InvalidInput(
            f"{shots} examples of {len(rows)} items leave nothing to score.",
            remedy="Show fewer examples.",
            field="shots",
        )
    examples = random.Random(f"examples {seed}").sample(range(len(rows)), shots)
    shown = set(examples)
    scored = [position for position in range(len(rows)) if position not in shown]
    if limit is not None and limit < len(scored):
        scored = sorted(random.Random(f"items {seed}").sample(scored, limit))
    items = make_items(rows, [*examples, *scored])
    return items[:shots], items[shots:]
