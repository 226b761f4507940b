"""Filters of an import: rows are left out by language, length and faults before they are split and counted; near
duplicates, the rows that a data report calls so, once all rows are written.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.languages import language_name
from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.mapping import canonical_json, clean_row
from backend.domain.data.splits import SPLITS
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from backend.infra.files.parquet import iter_row_groups
from jobs.data.parsing import Parsed
from jobs.data.reports.duplicates import DuplicateFinder, SimilarRows, extra_rows, leaking_rows
from jobs.data.reports.row_arrays import Numbers, RowArray
from jobs.data.reports.rows import VersionRows
from jobs.data.row_keys import RowKeys
from jobs.data.writing import DatasetWriter, VersionTally


@cache
def _load_guesser() -> Callable[[str], str]:
    from jobs.modeling.languages import LanguageGuesser  # takes time to load: once a process, and only for a filter

    return LanguageGuesser().guess


@dataclass(frozen=True)
class RowFilters:
    """Rows that an import keeps: in these languages, if any are given, of this many characters, without faults."""

    languages: tuple[str, ...] = ()
    min_characters: int = 0
    drop_faulty: bool = False

    @property
    def has_any(self) -> bool:
        """Return whether there is a filter."""
        return self != RowFilters()

    @cached_property
    def _find_faults(self) -> Callable[[str], object]:
        from backend.domain.data.reports.text_faults import find_faults  # likewise

        return find_faults

    def apply(self, parsed: Parsed) -> Parsed:
        """Return the rows of a block that pass, with the number of the others by reason."""
        if not self.has_any or not parsed.table.num_rows:
            return parsed
        reasons = [self.reason(row_text(clean_row(row))) for row in parsed.table.to_pylist()]
        passes = np.array([reason == "" for reason in reasons])
        if passes.all():
            return parsed
        table = parsed.table.filter(pyarrow.array(passes)).combine_chunks()
        return replace(parsed, table=table, keys=RowKeys(table), dropped=Counter(filter(None, reasons)))

    def reason(self, text: str) -> str:
        """Return why a text is left out, the cheapest reason first; empty if it passes."""
        if len(text) < self.min_characters:
            return f"shorter than {self.min_characters:,} characters"
        if self.drop_faulty and self._find_faults(text):
            return "with faulty characters"
        if self.languages and _load_guesser()(text) not in self.languages:
            return f"not in {' or '.join(map(language_name, self.languages))}"
        return ""


_SIMILAR, _LEAKING = "like another", "like a held-out row"
"""Why a row is left out, in counts."""
REASONS = {1: _SIMILAR, 2: _LEAKING}


def add_rows(finder: DuplicateFinder, rows: list[Row]) -> None:
    """Add rows to a finder, as a data report does."""
    finder.add([canonical_json(row) for row in rows], [row_text(row) for row in rows])


def sign_rows(files: Path, finder: DuplicateFinder) -> None:
    """Add all rows of a version's folder to a finder."""
    for batch in VersionRows(files).batches():
        add_rows(finder, batch.rows)


def leave_out_similar(
    files: Path,
    finder: DuplicateFinder,
    *,
    out: Path,
    header: str,
    kind: DatasetKind,
    tally: VersionTally,
    tell: Callable[[float], None],
) -> tuple[DatasetWriter, bool]:
    """Write the rows of the folder `files` to the empty folder `out`: of similar ones the first in each split alone,
    and no train row that is like a held-out one, as when a data report's leaks are dropped.

    `finder` has all rows, those of the train split first, and is closed here. Returns the closed writer, whose tally
    counts the rows of `out`, and whether some rows may not have been compared. `tell` is called with the progress, 0 to
    1, and may raise to stop. Raises InvalidInput if no train row is left.
    """
    rows = VersionRows(files)
    with closing(finder), closing(RowArray(out / "extra", np.uint8)) as extra:

        def read(numbers: Numbers) -> Iterator[tuple[int, str]]:
            for number, row in rows.stream(numbers):
                yield number, row_text(row)
                tell(0.5 + 0.25 * number / rows.total)

        alike = finder.finish(num_train=rows.num_train, read=read, tick=tell)
        limited = _mark_similar(alike, rows, extra, out)
        left = VersionTally(
            rejected_count=tally.rejected_count,
            rejected_bytes=tally.rejected_bytes,
            rejected=tally.rejected,
            reasons=tally.reasons,
            dropped=dict(tally.dropped),
        )
        writer = DatasetWriter(out, kind=kind, tally=left)
        with closing(writer):
            writer.note(f"{header} without near duplicates")
            dropped = _write_unmarked(files, rows, extra, writer)
        left.dropped.update({REASONS[mark]: count for mark, count in sorted(dropped.items())})
        if tally.train_rows and not left.train_rows:
            raise InvalidInput(
                "Every training row is like a held-out one, so none would be left.",
                remedy="Hold no rows out, or keep near duplicates.",
                field="drop_near_duplicates",
            )
    shutil.copyfile(files / "rejected.jsonl", out / "rejected.jsonl")
    for name in ("extra", "similar", "leaking"):
        (out / name).unlink()
    return writer, limited


def _mark_similar(alike: SimilarRows, rows: VersionRows, extra: RowArray, out: Path) -> bool:
    for _, marks in extra_rows(alike.like, rows, out / "similar"):
        extra.append(marks)
    for begin, marks in leaking_rows(alike, rows, out / "leaking"):
        leaking = begin + np.flatnonzero(marks)
        extra.put(leaking[extra.take(leaking) == 0], 2)
    return alike.limited


def _write_unmarked(files: Path, rows: VersionRows, extra: RowArray, writer: DatasetWriter) -> Counter[int]:
    """Write the rows that have no mark, in order; return how many have which."""
    first, dropped = 0, Counter[int]()
    for split in SPLITS:
        for table in iter_row_groups(files / f"{split}.parquet") if rows.counts[split] else ():
            marks = _marks_of(extra, first, first + table.num_rows)
            first += table.num_rows
            dropped.update(marks[marks != 0].tolist())
            table = table.filter(pyarrow.array(marks == 0)).combine_chunks() if marks.any() else table
            if table.num_rows:
                writer.note_rows(table, RowKeys(table))
                writer.add_table(table, split=split)
    return dropped


def _marks_of(extra: RowArray, first: int, last: int) -> npt.NDArray[np.uint8]:
    return np.concatenate([np.zeros(0, dtype=np.uint8), *(marks for _, marks in extra.blocks(first, last))])
