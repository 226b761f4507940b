"""Pretraining batches: texts end to end, read in windows whose boundaries shift every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.json_values import Row
from backend.domain.training.launch_warnings import fewest_tokens, short_text_cure
from backend.errors import InvalidInput
from jobs.batches.base import BatchSizes, MicroBatch, PartwiseOrder, StepBatches
from jobs.batches.token_files import IdArray, RowTokens, StoredTokens, TokenItem
from jobs.batches.token_making import TokenForm
from jobs.modeling.tokenizers import encode_texts

PART_TOKENS = 1 << 23
"""Tokens that the first epoch shuffles together."""
TokenArray = IdArray


def encode_documents(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[list[int]]:
    """Encode text rows, each as `<bos> text <eos>`, with the special tokens that the tokenizer has."""
    before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [[*before, *ids, *after] for ids in encode_texts(tokenizer, [str(row.get("text", "")) for row in rows])]


def _text_tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[RowTokens]:
    return [RowTokens((TokenItem((ids,)),)) for ids in encode_documents(tokenizer, rows)]


TEXT = TokenForm("text", segments=1, encode=_text_tokens, renders=False, streams=True)


class WholeTokens:
    """Tokens in an array, all of them known."""

    is_complete = True

    def __init__(self, ids: TokenArray) -> None:
        self._ids = ids
        self.num_tokens = len(ids)

    def wait(self, is_enough: Callable[[], bool]) -> None:
        """Return at once."""

    def read(self, begin: int, end: int) -> TokenArray:
        """Return ids."""
        return self._ids[begin:end]

    def announce(self, step: int, spans_of: object) -> None:
        """Do nothing: all are here."""

    def note(self) -> str:
        """Return nothing: no token is in the making."""
        return ""

    def row_at(self, position: int) -> int:
        """Return the position itself: an array has no rows."""
        return position


def windows_of(num_tokens: int, context: int) -> int:
    """Return the number of windows per epoch, one less than fit, so that the boundaries can shift."""
    return (num_tokens - 1) // context - 1


def check_token_count(num_tokens: int, *, context: int) -> None:
    """Raise InvalidInput if a train split has too few tokens for windows of `context`."""
    if num_tokens < fewest_tokens(context):
        raise InvalidInput(
            f"The train split has {num_tokens:,} tokens, too few for a context of {context:,}.",
            remedy=short_text_cure(num_tokens),
            field="context",
        )


class PretrainBatches(StepBatches):
    """Windows of `context` tokens of texts that pass `check_token_count`.

    Each epoch visits every window once, in an order and at an offset that follow from (seed, epoch). The first epoch
    takes the tokens part by part (`PART_TOKENS`), so that a run begins before all of them are made.
    """

    items = "windows of the train split that begin in rows"

    def __init__(
        self,
        train: StoredTokens | TokenArray,
        val: StoredTokens | TokenArray | None,
        *,
        context: int,
        sizes: BatchSizes,
    ) -> None:
        self._train = WholeTokens(train) if isinstance(train, np.ndarray) else train
        self._val = WholeTokens(val) if isinstance(val, np.ndarray) else val
        self._context, self._val_windows = context, sizes.val_items
        self._part = max(1, PART_TOKENS // context)
        super().__init__(PartwiseOrder(self._size_of_part, self._count, seed=sizes.seed), sizes)
        self._prefetched: tuple[tuple[int, int] | None, list[MicroBatch]] = (None, [])

    def _count(self) -> int:
        self._train.wait(lambda: False)
        return windows_of(self._train.num_tokens, self._context)

    def _size_of_part(self, part: int) -> int | None:
        last = (part + 1) * self._part
        self._train.wait(lambda: windows_of(self._train.num_tokens, self._context) >= last)
        size = min(self._part, windows_of(self._train.num_tokens, self._context) - part * self._part)
        return size if size > 0 else None

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return self._order.size

    @property
    def has_validation(self) -> bool:
        """Return whether there is a val split of two tokens, or one in the making."""
        return self._val is not None and (not self._val.is_complete or self._val.num_tokens > 1)

    def progress(self) -> str:
        """Say how many of the tokens are made; empty once they all are."""
        return self._train.note()

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        key, batches = self._prefetched
        self._prefetched = None, []
        if key == (step, self.micro_batch):
            return batches
        self._train.announce(step, self._spans)
        return [_windows(self._train, starts, self._context) for starts in self.split(self._starts(step))]

    def prefetch(self, step: int) -> None:
        """Read a step's windows now."""
        self._prefetched = (step, self.micro_batch), self.at_step(step)

    def validation(self) -> list[MicroBatch]:
        """Return evenly spaced windows of the val split; empty without one."""
        if self._val is None:
            return []
        self._val.wait(lambda: False)
        if self._val.num_tokens < 2:
            return []
        size = self._val.num_tokens
        context = min(self._context, size - 1)
        available = (size - 1) // context
        count = min(available, self._val_windows)
        starts = (np.arange(count, dtype=np.int64) * available // count) * context
        return [_windows(self._val, part, context) for part in self.split(starts)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the dataset's row in which each window of a step begins; of an array, the position in it."""
        return [[self._train.row_at(int(start))] for start in self._starts(step)]

    def _spans(self, step: int) -> list[tuple[int, int]]:
        return [(start, start + self._context + 1) for start in self._starts(step).tolist()]

    def _starts(self, step: int) -> npt.NDArray[np.int64]:
        epochs, windows = self.draw(step)
        return windows * self._context + np.array([self._shift(int(epoch)) for epoch in epochs], dtype=np.int64)

    def _shift(self, epoch: int) -> int:
        return epoch * 2_654_435_761 % self._context  # Knuth's multiplicative hash spreads the offsets without state


def _windows(tokens: StoredTokens | WholeTokens, starts: Any, context: int) -> MicroBatch:
    rows = [tokens.read(start, start + context + 1) for start in starts.tolist()]
    block = torch.from_numpy(np.stack(rows).astype(np.int64))
    return MicroBatch(block[:, :-1].contiguous(), block[:, 1:].contiguous(), len(starts) * context)
