"""Sample a dataset for a probe: enough rows for a few steps, with the longest among them. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from backend.domain.jobs.split_heads import BEGINNING
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from backend.infra.files.parquet import iter_file_tables
from jobs.modeling.dataset_files import iter_tables

SCANNED_ROWS, SCANNED_BYTES = 20_000, 64_000_000
LONGEST_ROWS, STEPS = 8, 4
CHARACTERS_PER_TOKEN = 12  # an upper bound of bytes per token, so that the sample has enough tokens


def write_probe_sample(dataset: Path, folder: Path, config: RunConfig, *, head: Path | None = None) -> Path:
    """Write `folder/train.parquet`: rows for a few steps of a run, and the longest of the dataset's first rows; of a
    dataset that stayed in a store those of its beginning in `head`.

    Raises NotFound if the dataset is missing.
    """
    rows = _first_rows(dataset, head)
    sizes = np.array(
        [len(json.dumps(row, ensure_ascii=False, default=str)) for row in rows.to_pylist()], dtype=np.int64
    )
    chosen = _texts(sizes, config) if config.objective.pretrains else _rows(sizes, config)
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(rows.take(pa.array(chosen)), folder / "train.parquet")
    return folder


def _first_rows(dataset: Path, head: Path | None) -> pa.Table:
    """Return the first rows of the train split, limited in number and bytes."""
    tables, count, size = [], 0, 0
    if head is None or not (head / BEGINNING).is_file():
        stored = iter_tables(dataset, split="train", num_rows=256)
    else:
        stored = iter_file_tables(head / "train.parquet", num_rows=256, below=int((head / BEGINNING).read_text()))
    for table in stored:
        tables.append(table)
        count += table.num_rows
        size += table.nbytes
        if count >= SCANNED_ROWS or size > SCANNED_BYTES:
            break
    if not count:
        raise InvalidInput("The train split has no rows.", field="dataset")
    return pa.concat_tables(tables)


def _texts(sizes: np.ndarray, config: RunConfig) -> np.ndarray:
    """Choose enough texts for a few steps of full windows."""
    tokens = config.context * (2 + STEPS * config.micro_batch * config.grad_accum_steps)
    enough = int(np.searchsorted(np.cumsum(sizes), CHARACTERS_PER_TOKEN * tokens)) + 1
    return np.arange(min(enough, len(sizes)))


def _rows(sizes: np.ndarray, config: RunConfig) -> np.ndarray:
    """Choose random rows for a few steps, and the longest."""
    sequences = STEPS * config.micro_batch * config.grad_accum_steps
    order = np.random.default_rng(config.seed).permutation(len(sizes))
    if config.objective.packs and config.packing:  # as many as fill the sequences
        sequences = int(np.searchsorted(np.cumsum(sizes[order]), CHARACTERS_PER_TOKEN * sequences * config.context)) + 1
    return np.unique(np.concatenate([order[:sequences], np.argsort(sizes)[-LONGEST_ROWS:]]))
