"""Open a source of rows, and read its first ones, by which kind, columns and parser are chosen.

A source is files of rows (jobs.data.readers), or what `save_to_disk` of Hugging Face `datasets` wrote: a folder or a
zip of one, with its splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.domain.data.kinds import LINE_KINDS, DatasetKind
from backend.domain.data.rows.columns import table_columns
from backend.domain.data.rows.problem import BadRow, RowProblem
from backend.domain.data.splits import SPLITS, Split
from backend.domain.data.versions.saved_splits import SavedChoice
from backend.errors import InvalidInput, first_line
from backend.infra.files.encoding import check_encoding
from backend.infra.files.local import Ignored, LocalListing, SavedSplit, choose_saved
from jobs.data.parsing import rows_of
from jobs.data.readers import TABLE_BYTES, Bytes, RowBlock, RowSource, SourcePosition, SourceRows, folder_beside

SAMPLE_ROWS = 50
HEAD_ROWS, HEAD_BYTES, HEAD_CHARACTERS = 1000, 64 * 2**20, 20_000
HEAD_TABLE_BYTES = 2**17  # a few rows are enough


def open_source(source: Path, *, kind: DatasetKind | None, split: str | None, encoding: str | None) -> SourceRows:
    """Open a source: a saved dataset with its splits, or files of rows. Raises InvalidInput for a split of a source
    without splits.
    """
    if saved := choose_saved(source, split):
        return SavedDataset(source, *saved)
    if split is not None:
        raise InvalidInput(
            f"{source.name!r} has no splits to choose from.", remedy="Leave the split out.", field="split"
        )
    return RowSource(
        source, lines_are_prompts=kind in LINE_KINDS, encoding=check_encoding(encoding) if encoding else None
    )


def read_head(rows: SourceRows) -> tuple[list[dict[str, object]], list[BadRow]]:
    """Return the first rows, until there are enough good ones to recognise the kind, or too many bad ones."""
    good: list[dict[str, object]] = []
    bad: list[BadRow] = []
    size = 0
    for block in rows.blocks(table_bytes=HEAD_TABLE_BYTES):
        for number, row in rows_of(block):
            if isinstance(row, RowProblem):
                bad.append(BadRow(block.file, number, row.reason, row.raw))
            else:
                good.append({"text": row["text"][:HEAD_CHARACTERS]} if block.suffix == ".txt" else row)
                size += len(str(good[-1]))
            if len(good) >= SAMPLE_ROWS or len(good) + len(bad) >= HEAD_ROWS or size > HEAD_BYTES:
                return good, bad
        if good and block.suffix == ".txt":  # texts are uniform, and as long as a block
            break
    return good, bad


class SavedDataset:
    """The chosen splits of a saved dataset, in blocks."""

    def __init__(self, path: Path, choice: SavedChoice, splits: Mapping[str, SavedSplit]) -> None:
        """Open the chosen splits; those in a zip are unpacked beside. Raises InvalidInput for an unreadable one."""
        self.name = path.name
        names: list[str] = [choice.train, *([choice.val] if choice.val else [])]
        listings = [splits[name].files() for name in names]
        members = tuple(
            replace(member, name=f"{name}/{member.name}")
            for name, one in zip(names, listings, strict=True)
            for member in one.members
        )
        skipped = tuple(Ignored(name, "a split that was not chosen") for name in choice.left_out)
        self.listing = LocalListing(members, skipped, is_single=False)
        self.size = self.listing.bytes
        self._unpacked = folder_beside(path, owner=self) if path.is_file() else None
        self._datasets = [
            (name, _load_saved(self._on_disk(name, splits[name])), one.bytes)
            for name, one in zip(names, listings, strict=True)
        ]
        self.sides: tuple[Split, ...] | None = SPLITS if choice.val else None

    def _on_disk(self, name: str, split: SavedSplit) -> Path:
        if self._unpacked is None:
            return split.path
        folder = self._unpacked / name
        folder.mkdir()
        split.unpack(folder)
        return folder

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Splits that are left out."""
        return self.listing.ignored

    @property
    def split_rows(self) -> str:
        """The rows of each split, as text for the content hash: `80+20`."""
        return "+".join(str(len(dataset)) for _, dataset, _ in self._datasets)

    def reuse(self, data: Bytes) -> None:
        """Do nothing: tables are memory-mapped."""

    def blocks(
        self, start: SourcePosition = SourcePosition(), *, columns: tuple[str, ...] = (), table_bytes: int = TABLE_BYTES
    ) -> Iterator[RowBlock]:
        """Yield tables of about `table_bytes` of each split, from a mark on; only `columns`, if all of them exist."""
        before = 0
        for place, (name, dataset, size) in enumerate(self._datasets):
            if place >= start.member:
                done = start.offset if place == start.member else 0
                for table in _tables(dataset, done, columns, rows=_rows_of(table_bytes, len(dataset), size)):
                    first, done = done + 1, done + table.num_rows
                    position = before + size * done // max(1, len(dataset))
                    side = self.sides[place] if self.sides else None
                    file = name if len(self._datasets) > 1 else ""
                    yield RowBlock(
                        file, ".table", first, SourcePosition(place, done, done + 1), position, table=table, side=side
                    )
            before += size


def _rows_of(table_bytes: int, rows: int, size: int) -> int:
    return min(8192, max(16, table_bytes * rows // max(1, size)))


def _tables(dataset: Any, skip: int, columns: tuple[str, ...], *, rows: int) -> Iterator[Any]:
    held = table_columns(columns, dataset.column_names)
    chosen = dataset.select_columns(held) if held else dataset
    return iter(chosen.select(range(skip, len(chosen))).with_format("arrow").iter(batch_size=rows))


def _load_saved(folder: Path) -> Any:
    import pyarrow
    from datasets import disable_progress_bars, load_from_disk  # slow to import, and needed only for saved folders

    disable_progress_bars()
    try:
        return load_from_disk(str(folder), keep_in_memory=False)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"The saved dataset {folder.name!r} can't be loaded: {first_line(error)}.",
            remedy="Save it again with save_to_disk.",
            field="source",
        ) from None
