"""Record scored items in the job's folder and report them, so that a lost worker costs one batch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.jobs.events import ItemEvent
from backend.errors import JobFailed
from jobs.evaluation.items import ScoredItem
from jobs.reporter import Reporter


class ItemLedger:
    """Scored items of one job. `file` outlives the attempt; its items are not scored again."""

    def __init__(self, file: Path, reporter: Reporter, *, fingerprint: str) -> None:
        self._file, self._reporter, self._fingerprint = file, reporter, fingerprint
        self.values: dict[str, dict[str, float]] = {}
        self.clusters: dict[str, float] = {}
        self.subgroups: dict[str, str] = {}
        self.categories: dict[str, str] = {}
        self.total = 0
        self._read()
        self._at_start = len(self.values)
        self._started = time.monotonic()

    def _read(self) -> None:
        if not self._file.is_file():
            return
        for line in self._file.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # torn when the attempt before was killed
            if record.get("fingerprint") == self._fingerprint:
                self.values[record["hash"]] = record["values"]
                self._sort(record["hash"], record)

    def _sort(self, item_hash: str, parts: Mapping[str, Any]) -> dict[str, str]:
        """Note the parts that an item belongs to, and return them."""
        named = {"subgroup": self.subgroups, "category": self.categories}
        for name, items in named.items():
            if name in parts:
                items[item_hash] = parts[name]
        return {name: parts[name] for name in named if name in parts}

    def expect(self, total: int) -> None:
        """Set the number of items."""
        self.total = total
        self._report(0.0)

    def add(self, scored: Iterable[ScoredItem]) -> None:
        """Report and store a batch."""
        with self._file.open("a") as file:
            for item in scored:
                if item.hash in self.values:
                    continue
                values = {**item.values, **({CLUSTER: self.clusters[item.hash]} if item.hash in self.clusters else {})}
                self._reporter.emit(
                    ItemEvent(item_hash=item.hash, position=item.position, values=dict(values), shown=item.shown)
                )
                record = {"fingerprint": self._fingerprint, "hash": item.hash, "values": values} | self._sort(
                    item.hash, item.shown
                )
                file.write(json.dumps(record) + "\n")
                self.values[item.hash] = values
        elapsed = time.monotonic() - self._started
        self._report((len(self.values) - self._at_start) / elapsed if elapsed > 0 else 0.0)

    def _report(self, rate: float) -> None:
        self._reporter.progress(len(self.values), max(self.total, len(self.values)), unit="items", rate=rate or None)

    def check_stop(self) -> None:
        """Raise JobFailed if a stop was requested; scored items stay recorded."""
        check_stop(self._reporter)


def check_stop(reporter: Reporter) -> None:
    """Raise JobFailed if a stop was requested."""
    if reporter.should_stop() is not None:
        raise JobFailed("The job was stopped on request.")
