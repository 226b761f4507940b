"""Derive a dataset version from another by a change. Reads row by row and holds eight bytes per row. Rows keep their
order: train, then validation.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.splits import SPLITS, Split
from backend.domain.data.versions.changes import Change, DropDuplicates, DropRows, Filter, KeepSample, Merge, Resplit
from backend.domain.data.versions.conditions import describe_change, meets, row_hash, rows_kept
from backend.domain.jobs.results import ImportResult
from backend.domain.json_values import Row
from backend.errors import InvalidInput, JobFailed
from jobs.data.splitting import val_rows
from jobs.data.writing import DatasetWriter, publish_version, temporary_folder
from jobs.modeling.dataset_files import iter_rows, iter_tables, num_rows, read_meta
from jobs.reporter import Reporter

REPORT_EVERY_S = 0.5
Placed = tuple[Split, Row]


@dataclass(frozen=True)
class _Source:
    """A version to read."""

    folder: Path
    meta: Row

    def count(self, split: Split) -> int:
        """Rows of a split."""
        return num_rows(self.folder, split=split)

    def rows(self) -> Iterator[Placed]:
        """Yield all rows, train before val."""
        for split in SPLITS:
            for row in iter_rows(self.folder, split=split):
                yield split, row


def derive(
    folder: Path, *, change: Change, other: Path | None = None, out_root: Path, reporter: Reporter
) -> ImportResult:
    """Write the changed version under `out_root`; return what the import of a file returns.

    `dropped_rows` counts the rows left out. A change without effect returns the version itself. Raises InvalidInput if
    no row is left or the change is invalid, JobFailed when stopped on request.
    """
    source = _Source(folder, read_meta(folder))
    added = _Source(other, read_meta(other)) if other is not None else None
    kind = DatasetKind(source.meta["kind"])
    total = sum(source.count(split) for split in SPLITS) + (sum(added.count(split) for split in SPLITS) if added else 0)
    readings = 3 if isinstance(change, Resplit) else 2 if isinstance(change, DropDuplicates) else 1
    meter = _Meter(reporter, total=total * readings)
    with temporary_folder(out_root) as partial:
        same = added is None
        num_written = 0
        with closing(DatasetWriter(partial, kind=kind)) as writer:
            writer.note(f"derived {kind}")
            for (split, row), was in _placed(source, added, change=change, kind=kind, meter=meter):
                writer.note_row(f"{split} {canonical_json(row)}")
                writer.add(row, split=split)
                num_written += 1
                same = same and split == was
        if same and num_written == total:
            return _unchanged(source, change)
        if writer.count("train") == 0:
            raise InvalidInput(
                f"After the change ({describe_change(change)}) no train row is left.",
                remedy="Drop fewer rows.",
                field="change",
            )
        result = _result(
            writer,
            source,
            change=change,
            target=out_root / writer.content_hash[:16],
            dropped=total - num_written,
            folder=partial,
        )
        cut = is_cut(source.meta) or (added is not None and is_cut(added.meta))
        result, target = result.model_copy(update={"is_cut": cut}), Path(result.folder)
        (partial / "meta.json").write_text(json.dumps({**result.dump(), "folder": target.name, "format": 1}, indent=1))
        publish_version(partial, target=target)
    reporter.log(f"{writer.num_rows:,} rows: {describe_change(change)}; {total - num_written:,} left out.")
    return result.model_copy(update={"bytes": _bytes(target)})


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _unchanged(source: _Source, change: Change) -> ImportResult:
    """Return the version itself as the result of a change without effect."""
    changes = {"folder": str(source.folder), "dropped_rows": 0, "bytes": _bytes(source.folder)}
    return ImportResult.model_validate({**source.meta, **changes, "reason": f"no effect: {describe_change(change)}"})


def _result(
    writer: DatasetWriter, source: _Source, *, change: Change, target: Path, dropped: int, folder: Path
) -> ImportResult:
    return ImportResult(
        kind=source.meta["kind"],
        mapping={},
        rows=writer.num_rows,
        train_rows=writer.count("train"),
        val_rows=writer.count("val"),
        rejected_count=0,
        rejected=(),
        content_hash=writer.content_hash,
        folder=str(target),
        bytes=_bytes(folder),
        text_bytes=writer.text_bytes,
        columns=tuple(source.meta.get("columns") or ()),
        unigram_byte_entropy_bits=writer.byte_entropy_bits(),
        reason=describe_change(change),
        dropped_rows=dropped,
        change=change.model_dump(mode="json", exclude={"train", "val"}),
    )


def is_cut(meta: Row) -> bool:
    """Return whether a version's few texts were cut in two for validation, instead of being split by text."""
    return bool(meta.get("is_cut", meta["train_rows"] + meta["val_rows"] > meta["rows"]))


class _Meter:
    """Reports progress twice a second, and stops the work on request."""

    def __init__(self, reporter: Reporter, *, total: int) -> None:
        self._reporter, self._total, self._done, self._last = reporter, total, 0, time.monotonic()

    def passed(self, rows: Iterator[Placed]) -> Iterator[Placed]:
        """Yield rows, counting them."""
        for placed in rows:
            yield placed
            self._count(1)

    def passed_tables(self, tables: Iterator[pyarrow.Table]) -> Iterator[pyarrow.Table]:
        """Yield tables, counting their rows."""
        for table in tables:
            yield table
            self._count(table.num_rows)

    def _count(self, rows: int) -> None:
        self._done += rows
        if time.monotonic() - self._last > REPORT_EVERY_S:
            self._last = time.monotonic()
            self._reporter.progress(
                self._done, self._total, unit="row", message=f"{self._done:,} of {self._total:,} rows read"
            )
            if self._reporter.should_stop():
                raise JobFailed(
                    "The change was stopped on request.", remedy="No rows were kept; derive it again to retry."
                )


def _placed(
    source: _Source, added: _Source | None, *, change: Change, kind: DatasetKind, meter: _Meter
) -> Iterator[tuple[Placed, Split]]:
    """Yield the kept rows, each with its new and its old split."""
    if isinstance(change, Resplit):
        yield from _split_anew(source, change, kind=kind, meter=meter)
        return
    if isinstance(change, Merge):
        assert added is not None
        yield from _merged(source, added, meter=meter)
        return
    keeps = _chooser(source, change, meter=meter)
    for place, (split, row) in enumerate(meter.passed(source.rows())):
        if keeps(place, split, row):
            yield (split, row), split


def _chooser(source: _Source, change: Change, *, meter: _Meter) -> Callable[[int, Split, Row], bool]:
    """Return the predicate that decides by a row's index whether it is kept."""
    if isinstance(change, Filter):
        return lambda _place, _split, row: all(meets(row, condition) for condition in change.conditions) == change.keep
    if isinstance(change, DropRows | KeepSample):
        stays = rows_kept(change, train=source.count("train"), val=source.count("val"))
        return lambda place, _split, _row: bool(stays[place])
    assert isinstance(change, DropDuplicates)
    first = _first_of_equals(source, loose=change.loose, meter=meter)
    return lambda place, _split, _row: bool(first[place])


def _first_of_equals(source: _Source, *, loose: bool, meter: _Meter) -> npt.NDArray[np.bool_]:
    """Mark one of each set of equal rows, in the order of all rows; validation rows take precedence."""
    hashes = array("Q", (row_hash(row, loose=loose) for _, row in meter.passed(source.rows())))
    values = np.frombuffer(hashes, dtype=np.uint64) if hashes else np.zeros(0, dtype=np.uint64)
    train = source.count("train")
    order = np.concatenate([np.arange(train, len(values)), np.arange(train)])
    _, first = np.unique(values[order], return_index=True)
    marked = np.zeros(len(values), dtype=bool)
    marked[order[first]] = True
    return marked


def _merged(source: _Source, added: _Source, *, meter: _Meter) -> Iterator[tuple[Placed, Split]]:
    held_out = {row_hash(row) for one in (source, added) for row in iter_rows(one.folder, split="val")}
    for split in SPLITS:
        for one in (source, added):
            for _, row in meter.passed((split, row) for row in iter_rows(one.folder, split=split)):
                if split == "val" or not held_out or row_hash(row) not in held_out:
                    yield (split, row), split


def _split_anew(
    source: _Source, change: Resplit, *, kind: DatasetKind, meter: _Meter
) -> Iterator[tuple[Placed, Split]]:
    if kind is DatasetKind.TEXT and is_cut(source.meta):
        raise InvalidInput(
            f"The {source.meta['rows']} texts of this version are too few to divide: each was cut in two.",
            remedy="Import the file again with another share for validation.",
            field="change",
        )
    tables = (table for split in SPLITS for table in meter.passed_tables(iter_tables(source.folder, split=split)))
    is_val = val_rows(tables, kind=kind, seed=change.seed, val_fraction=change.val_fraction)
    for target in SPLITS:
        for place, (was, row) in enumerate(meter.passed(source.rows())):
            if is_val[place] == (target == "val"):
                yield (target, row), was
