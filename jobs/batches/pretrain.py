"""Pretraining batches: texts tokenised once into a flat file, read in windows whose boundaries shift every epoch."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from backend.errors import InvalidInput
from jobs.batches.base import BatchSizes, MicroBatch, StepBatches
from jobs.modeling.dataset_files import Row, Split, iter_rows, split_file
from jobs.modeling.tokenizers import encode_texts
from jobs.reporter import Reporter

ENCODED_ROWS = 512
TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


def cache_tokens(dataset: Path, split: Split, *, tokenizer: PreTrainedTokenizerBase, folder: Path, reporter: Reporter) -> TokenArray | None:
    """Tokenise a split into a file under `folder`, unless an earlier attempt did; return it memory-mapped.

    Documents are concatenated as `<bos> text <eos>`, with the special tokens that the tokenizer has. None if the split is missing or empty.
    """
    source = split_file(dataset, split)
    if source is None:
        return None
    dtype: type[np.uint16] | type[np.uint32] = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    stamp = [str(source.resolve()), source.stat().st_size, source.stat().st_mtime_ns, tokenizer.backend_tokenizer.to_str()]
    key = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]
    file = folder / f"tokens-{split}-{key}.{np.dtype(dtype).name}"
    if not file.exists():
        partial = file.with_suffix(".partial")
        num_tokens = _write_tokens(dataset, split, partial, tokenizer=tokenizer, dtype=dtype)
        os.replace(partial, file)
        reporter.log(f"Tokenised the {split} split: {num_tokens:,} tokens.")
    if file.stat().st_size == 0:
        return None
    tokens: TokenArray = np.memmap(file, dtype=dtype, mode="r")
    return tokens


def encode_documents(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[list[int]]:
    """Encode text rows, each as `<bos> text <eos>`, with the special tokens that the tokenizer has."""
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [[*before, *ids, *after] for ids in encode_texts(tokenizer, [str(row.get("text", "")) for row in rows])]


def _write_tokens(
    dataset: Path, split: Split, target: Path, *, tokenizer: PreTrainedTokenizerBase, dtype: type[np.uint16] | type[np.uint32]
) -> int:
    total = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        texts = iter_rows(dataset, split=split)
        while rows := list(islice(texts, ENCODED_ROWS)):
            flat = [token for ids in encode_documents(tokenizer, rows) for token in ids]
            out.write(np.asarray(flat, dtype=dtype).tobytes())
            total += len(flat)
    return total


def windows_of(num_tokens: int, context: int) -> int:
    """Return the number of windows per epoch, one less than fit, so that the boundaries can shift."""
    return (num_tokens - 1) // context - 1


def check_token_count(num_tokens: int, *, context: int) -> None:
    """Raise InvalidInput if a train split has too few tokens for windows of `context`."""
    if num_tokens < 2 * context + 1:
        raise InvalidInput(
            f"The train split has {num_tokens:,} tokens, too few for a context of {context}.",
            remedy=f"Use a context of at most {max(8, (num_tokens - 1) // 2)}, or more text.",
            field="context",
        )


class PretrainBatches(StepBatches):
    """Windows of `context` tokens from a flat token file that passes `check_token_count`.

    Each epoch visits every window once, in an order and at an offset that follow from (seed, epoch).
    """

    items = "windows of the train split that begin at tokens"

    def __init__(self, train: TokenArray, val: TokenArray | None, *, context: int, sizes: BatchSizes) -> None:
        super().__init__(windows_of(len(train), context), sizes)
        self._train, self._val, self._context = train, val, context
        self._val_windows = sizes.val_items
        self._prefetched: tuple[tuple[int, int] | None, list[MicroBatch]] = (None, [])

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return self._order.size

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        key, batches = self._prefetched
        self._prefetched = None, []
        if key == (step, self.micro_batch):
            return batches
        return [self._windows(self._train, starts, self._context) for starts in self.split(self._starts(step))]

    def prefetch(self, step: int) -> None:
        """Read a step's windows now."""
        self._prefetched = (step, self.micro_batch), self.at_step(step)

    def validation(self) -> list[MicroBatch]:
        """Return evenly spaced windows of the val split; empty without one."""
        if self._val is None or len(self._val) < 2:
            return []
        context = min(self._context, len(self._val) - 1)
        available = (len(self._val) - 1) // context
        count = min(available, self._val_windows)
        starts = (np.arange(count, dtype=np.int64) * available // count) * context
        return [self._windows(self._val, part, context) for part in self.split(starts)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the first token of each window of a step, as an index into the train split."""
        return [[int(start)] for start in self._starts(step)]

    def _starts(self, step: int) -> npt.NDArray[np.int64]:
        epochs, windows = self.draw(step)
        return windows * self._context + np.array([self._shift(int(epoch)) for epoch in epochs], dtype=np.int64)

    def _shift(self, epoch: int) -> int:
        return epoch * 2_654_435_761 % self._context  # Knuth's multiplicative hash spreads the offsets without state

    @staticmethod
    def _windows(tokens: TokenArray, starts: Any, context: int) -> MicroBatch:
        block = torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
        return MicroBatch(block[:, :-1].contiguous(), block[:, 1:].contiguous(), len(starts) * context)
