"""Open a source of rows, and read its first ones, by which kind, columns and parser are chosen."""

from __future__ import annotations

from pathlib import Path

from backend.domain.data.kinds import LINE_KINDS, DatasetKind
from backend.domain.data.rows.problem import BadRow, RowProblem
from backend.errors import InvalidInput
from backend.infra.files.encoding import check_encoding
from backend.infra.files.local import choose_saved
from jobs.data.parsing import rows_of
from jobs.data.readers import RowSource, SourceRows
from jobs.data.saved import SavedDataset

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
