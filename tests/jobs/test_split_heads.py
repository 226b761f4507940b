"""The beginning of a split that stays in a store: its first rows, of which nothing behind them is fetched."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from backend.domain.jobs.split_heads import BEGINNING
from backend.errors import RoundhouseError
from backend.infra.artifacts import Artifacts
from backend.infra.files.parquet import iter_file_tables
from backend.infra.store.folders import UncopiedFile
from jobs.exchange import FOOTER_BYTES, bring_head
from tests.support.stores import folder_store

ROWS, GROUP = 40_000, 1_000


def remote(tmp_path: Path, *, spoil: bool = False) -> UncopiedFile:
    """A split of forty row groups in a store."""
    here = Artifacts(tmp_path / "here", url=folder_store(tmp_path / "store").url)
    file = here.folder("datasets", "d") / "train.parquet"
    table = pyarrow.table({"text": [f"{number} {number**2}" for number in range(ROWS)]})
    parquet.write_table(table, file, row_group_size=GROUP, compression="none")
    if spoil:
        file.write_bytes(file.read_bytes()[:-FOOTER_BYTES] + b"\xff" * FOOTER_BYTES)
    assert here.store is not None
    here.store.send("datasets/d")
    stored = here.store.remote_file("datasets/d", "train.parquet")
    assert stored is not None
    return stored


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_first_rows_are_those_of_the_split_and_the_others_stay_in_the_store(tmp_path: Path, share: float) -> None:
    file, head = remote(tmp_path), tmp_path / "head"
    bring_head(file, head, check=lambda: None, num_bytes=int(share * file.file.size))
    below = int((head / BEGINNING).read_text())
    rows = [
        row["text"]
        for table in iter_file_tables(head / "train.parquet", num_rows=256, below=below)
        for row in table.to_pylist()
    ]
    assert rows == [f"{number} {number**2}" for number in range(len(rows))]
    assert len(rows) == ROWS if share == 1 else 0.2 * ROWS < len(rows) <= 0.35 * ROWS
    assert file.objects.bytes_read < (share + 0.05) * file.file.size + 10_000


def test_a_file_whose_directory_can_not_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RoundhouseError, match="not a Parquet file"):
        bring_head(remote(tmp_path, spoil=True), tmp_path / "head", check=lambda: None)


def test_a_job_that_is_stopped_meanwhile_ends_the_fetch(tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        bring_head(remote(tmp_path), tmp_path / "head", check=stop)
