"""A part of a dataset that is enough to measure a step by: the run's own rows, the longest among them. Knows no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from backend.domain.training.config import Objective, RunConfig
from jobs.modeling.dataset_files import split_file

LOOKED_AT, LOOKED_AT_BYTES = 20_000, 64_000_000
LONGEST, STEPS = 8, 4
CHARACTERS_PER_TOKEN = 12  # more than any text needs, so that there are tokens enough


def write_sample(dataset: Path, folder: Path, config: RunConfig) -> Path:
    """Write `folder/train.parquet`: what a few steps of a run read, and the longest rows of the dataset's beginning.

    Raises NotFound if the dataset is not there.
    """
    source = split_file(dataset, "train")
    assert source is not None
    rows = _beginning(source)
    sizes = np.array([len(json.dumps(row, ensure_ascii=False, default=str)) for row in rows.to_pylist()], dtype=np.int64)
    chosen = _texts(sizes, config) if config.objective is Objective.PRETRAIN else _rows(sizes, config)
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(rows.take(pa.array(chosen)), folder / "train.parquet")
    return folder


def _beginning(source: Path) -> pa.Table:
    """Return the first rows of a file, as many as can be looked at in a moment."""
    file, batches, count = parquet.ParquetFile(source), [], 0
    for batch in file.iter_batches(batch_size=256, use_threads=False):
        batches.append(batch)
        count += batch.num_rows
        if count >= LOOKED_AT or sum(each.nbytes for each in batches) > LOOKED_AT_BYTES:
            break
    return pa.Table.from_batches(batches, schema=file.schema_arrow)


def _texts(sizes: np.ndarray, config: RunConfig) -> np.ndarray:
    """Choose texts for a few steps of full windows."""
    tokens = config.context * (2 + STEPS * config.micro_batch * config.grad_accum_steps)
    enough = int(np.searchsorted(np.cumsum(sizes), CHARACTERS_PER_TOKEN * tokens)) + 1
    return np.arange(min(enough, len(sizes)))


def _rows(sizes: np.ndarray, config: RunConfig) -> np.ndarray:
    """Choose rows at random for a few steps, and the longest."""
    sequences = STEPS * config.micro_batch * config.grad_accum_steps
    some = np.random.default_rng(config.seed).permutation(len(sizes))
    if config.objective is Objective.SFT and config.packing:  # as many as fill the sequences
        sequences = int(np.searchsorted(np.cumsum(sizes[some]), CHARACTERS_PER_TOKEN * sequences * config.context)) + 1
    some = some[:sequences]
    return np.unique(np.concatenate([some, np.argsort(sizes)[-LONGEST:]]))
