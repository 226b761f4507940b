"""Checkpoints of an import: a stopped or killed import of the same source resumes from its last finished part.

`<out_root>/.importing-<key>/` holds `part-00000/`, ... (each a train.parquet, a val.parquet and a rejected.jsonl) and
`state.json`, which is replaced after each part. The key is a hash of the source's files (paths, sizes, times of change)
and of the settings.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.splits import SPLITS
from backend.infra.files.local import LocalListing
from backend.infra.files.parquet import iter_row_groups
from jobs.data.readers import SourcePosition
from jobs.data.writing import SplitFile, VersionTally, holding_disk, remove_leftovers

STATE = "state.json"


@dataclass(frozen=True)
class State:
    """Progress of an import: finished `parts`, their tally, the next block's mark, and the number of its good rows
    already written.
    """

    parts: int
    tally: VersionTally
    mark: SourcePosition
    rows_done: int

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read the state of an earlier attempt, or return a new one."""
        try:
            stored: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return cls(
                stored["parts"], VersionTally(**stored["tally"]), SourcePosition(**stored["mark"]), stored["rows_done"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return cls(0, VersionTally(), SourcePosition(), 0)

    def save(self, folder: Path) -> None:
        """Replace the stored state atomically."""
        beside = folder / f"{STATE}.new"
        with beside.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / STATE)


def import_key(listing: LocalListing, settings: Mapping[str, object]) -> str:
    """Return the key of an import: equal for the same unchanged files with the same settings."""
    files = [[member.name, str(member.path.resolve()), member.bytes, member.mtime_ns] for member in listing.members]
    return hashlib.sha256(json.dumps([files, settings], sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def workplace(out_root: Path, key: str) -> Iterator[Path]:
    """Lend the folder of an unfinished import. Afterwards it is removed, unless it holds `state.json` and the import
    failed. A folder is locked; a second import of the same source gets a new one. Raises Unavailable when the disk is
    full.
    """
    out_root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out_root)
    folder = out_root / f".importing-{key}"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = out_root / f".importing-{uuid.uuid4().hex[:12]}"
            folder.mkdir()
        finished = False
        try:
            with holding_disk(out_root):
                yield folder
            finished = True
        finally:
            if finished or not (folder / STATE).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def part_folder(folder: Path, number: int) -> Path:
    """Make the empty folder of a part, removing leftovers of an earlier attempt."""
    part = folder / f"part-{number:05d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    return part


def join_parts(folder: Path, count: int, *, kind: DatasetKind) -> Path:
    """Concatenate the finished parts, a row group at a time; return the folder of the result."""
    if count == 1:
        return folder / "part-00000"
    joined = part_folder(folder, 99_999)
    parts = [folder / f"part-{number:05d}" for number in range(count)]
    for split in SPLITS:
        file = SplitFile(joined / f"{split}.parquet", kind=kind)
        for part in parts:
            for table in iter_row_groups(part / f"{split}.parquet"):
                file.add(table)
        file.close()
    with (joined / "rejected.jsonl").open("wb") as out:
        for part in parts:
            with (part / "rejected.jsonl").open("rb") as listed:
                shutil.copyfileobj(listed, out)
    return joined
