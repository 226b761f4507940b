"""Find what objects of the database lack of their files, as after a copy that left some out. Reads names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from backend.db.tables import Checkpoint, Dataset, DatasetVersion, Tokenizer
from backend.services.context import Context

SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")


def find_missing_files(ctx: Context) -> list[str]:
    """Return a line for each dataset version, tokenizer and checkpoint whose files under the artifacts' root are not
    all there: its name and what it lacks. Weights in several files are counted.
    """
    versions = (
        select(DatasetVersion.folder, Dataset.name, DatasetVersion.number)
        .add_columns(DatasetVersion.train_rows, DatasetVersion.val_rows)
        .join(Dataset)
        .where(DatasetVersion.folder.is_not(None))
        .order_by(Dataset.name, DatasetVersion.number)
    )
    tokenizers = select(Tokenizer.folder, Tokenizer.name).where(Tokenizer.folder.is_not(None)).order_by(Tokenizer.name)
    checkpoints = (
        select(Checkpoint.folder, Checkpoint.name, Checkpoint.is_adapter)
        .where(Checkpoint.folder.is_not(None), Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.created_at.desc(), Checkpoint.name)
    )
    missing = []
    with ctx.db.read() as session:
        for folder, name, number, train_rows, val_rows in session.execute(versions):
            splits = {"train.parquet": train_rows, "val.parquet": val_rows}
            expected = {split for split, rows in splits.items() if rows}
            missing.append((f"dataset {name}@{number}", expected - _names_in(ctx.artifacts.root / str(folder))))
        for folder, name in session.execute(tokenizers):
            names = _names_in(ctx.artifacts.root / str(folder))
            missing.append((f"tokenizer {name}", {"tokenizer.json"} - names))
        for folder, name, is_adapter in session.execute(checkpoints):
            names = _names_in(ctx.artifacts.root / str(folder))
            config = "adapter_config.json" if is_adapter else "config.json"
            missing.append((f"checkpoint “{name}”", {config} - names | set(_missing_weights(names))))
    return [f"{what} ({', '.join(sorted(names))})" for what, names in missing if names]


def _missing_weights(names: set[str]) -> Iterator[str]:
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        yield "weights: *.safetensors"
    totals = [int(match[1]) for name in weights if (match := SHARD.search(name))]
    if totals and len(totals) < max(totals):
        yield f"{max(totals) - len(totals)} of {max(totals)} files of weights"


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
