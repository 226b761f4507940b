"""Search every row for benchmark items, character faults, spelled special tokens and prompts that both splits have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.attributes import view_of
from backend.domain.data.reports.contamination import BenchmarkIndex, BenchmarkItem, item_of
from backend.domain.data.reports.report import BenchmarkChecked, Contamination, FaultReport, RowRef
from backend.domain.data.reports.text_faults import FAULTS, find_faults
from backend.domain.data.splits import SPLITS
from backend.domain.json_values import Row
from jobs.data.reports.row_arrays import RowArray, RowList
from jobs.data.reports.rows import RowBatch, VersionRows, parts_of, row_prompt
from jobs.modeling.dataset_files import iter_rows

SHOWN_OVERLAPS = 1000
SHOWN_FAULTS = 5


def read_benchmark_items(benchmarks: Iterable[tuple[str, Path]]) -> list[BenchmarkItem]:
    """Return the items of benchmarks, numbered from 1 through their splits."""
    items = []
    for name, folder in benchmarks:
        number = 0
        for split in SPLITS:
            if (folder / f"{split}.parquet").is_file():
                for row in iter_rows(folder, split=split):
                    number += 1
                    items.append(item_of(name, number, row))
    return items


class OverlapFinder:
    """Searches rows for all items."""

    def __init__(self, items: Sequence[BenchmarkItem]) -> None:
        self._index = BenchmarkIndex(items)
        self._sizes = Counter(item.benchmark for item in items)
        self._found: dict[str, set[int]] = {name: set() for name in self._sizes}
        self.shown: list[Contamination] = []
        self.rows = RowList()

    def add(self, batch: RowBatch, rows: VersionRows) -> None:
        """Process some rows."""
        for overlap in self._index.search([parts_of(row) for row in batch.rows]):
            number = batch.first + overlap.row
            self.rows.add(number)
            self._found[overlap.benchmark].add(overlap.item)
            if len(self.shown) < SHOWN_OVERLAPS:
                split, row = rows.place(number)
                self.shown.append(view_of(Contamination, overlap, split=split, row=row + 1))

    def checked(self) -> list[BenchmarkChecked]:
        """Return the benchmarks with the number of items found."""
        return [
            BenchmarkChecked(name=name, items=size, found=len(self._found[name])) for name, size in self._sizes.items()
        ]


class FaultCounter:
    """Counts faults of characters."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[RowRef]] = {}

    def add(self, number: int, row: Row, rows: VersionRows) -> None:
        """Process a row; each kind counts once per row."""
        known: set[str] = set()
        for part in parts_of(row):
            for fault in find_faults(part):
                self._counts[fault.name] += fault.count
                if fault.name not in known:
                    known.add(fault.name)
                    self._rows[fault.name] += 1
                    examples = self._examples.setdefault(fault.name, [])
                    if len(examples) < SHOWN_FAULTS:
                        split, place = rows.place(number)
                        # a lone surrogate can't be stored
                        excerpt = fault.excerpt.encode("utf-8", "backslashreplace").decode()
                        examples.append(RowRef(split=split, row=place + 1, text=excerpt))

    def faults(self) -> list[FaultReport]:
        """Return the faults, worst kind first."""
        return [
            FaultReport(
                name=name,
                meaning=meaning,
                rows=self._rows[name],
                count=self._counts[name],
                examples=self._examples[name],
            )
            for name, meaning in FAULTS.items()
            if self._rows[name]
        ]


class ForgeryCounter:
    """Counts rows whose text spells special tokens of the tokenizer, which the renderer splits into plain text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, renders: bool) -> None:
        special = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and token.content.strip()
        ]
        self._pattern = re.compile("|".join(re.escape(token) for token in special)) if special and renders else None
        self.rows = RowList()
        self.shown: list[RowRef] = []

    def add(self, number: int, row: Row, rows: VersionRows) -> None:
        """Process a row."""
        for part in parts_of(row) if self._pattern else ():
            match = self._pattern.search(part) if self._pattern else None
            if match:
                self.rows.add(number)
                if len(self.shown) < SHOWN_FAULTS:
                    self.shown.append(rows.ref(number, part[max(0, match.start() - 40) : match.end() + 200]))
                return


class PromptFinder:
    """Finds validation rows whose prompt is in the train split, by hashes of 64 bits in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._keys = {split: RowArray(folder / f"prompts-{split}", np.uint64) for split in SPLITS}
        self._folder, self._shared = folder, list[RowArray]()

    def add(self, batch: RowBatch) -> None:
        """Process some rows."""
        prompts = [row_prompt(row).strip() for row in batch.rows]
        self._keys[batch.split].append(
            np.array([hash(prompt) or 1 if prompt else 0 for prompt in prompts], dtype=np.int64).view(np.uint64)
        )

    def close(self) -> None:
        """Close the files."""
        for array in (*self._keys.values(), *self._shared):
            array.close()

    def shared(self) -> RowArray:
        """Return 1 for each validation row whose prompt is in the train split."""
        shared = RowArray(self._folder / "prompts-shared", np.uint8, count=len(self._keys["val"]))
        self._shared.append(shared)
        for part in self._keys["val"].parts():
            for rows, keys in part:
                different = np.unique(keys)
                is_trained = np.zeros(len(different), dtype=np.bool_)
                for _, trained in self._keys["train"].blocks():
                    places = np.minimum(np.searchsorted(different, trained), len(different) - 1)
                    is_trained[places[different[places] == trained]] = True
                shared.put(rows[is_trained[np.searchsorted(different, keys)]], 1)
        return shared
