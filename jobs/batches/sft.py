"""Supervised fine-tuning batches: conversations rendered with the checkpoint's template, assistant turns trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from backend.domain.training.packing import pack_rows
from jobs.batches.base import IGNORE, BatchSizes, MicroBatch, PartwiseOrder, StepBatches
from jobs.batches.examples import Example, Examples, HeldOutExamples, known_examples

PAD_TO = 16


def positions_of(num_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the positions that packed rows take: one fewer than their tokens, as the last token predicts nothing."""
    return np.maximum(num_tokens - 1, 0)


def padded_length(longest: int) -> int:
    """Return the padded length of a micro-batch's rows, in positions, given its longest row in tokens (one more than
    its inputs).
    """
    return -(-(longest - 1) // PAD_TO) * PAD_TO


class PackedBatches(StepBatches):
    """Conversations packed into sequences of at most `context` positions, without padding.

    A micro-batch is `micro_batch` sequences in one row of tokens. The packing and the order follow from (seed, epoch);
    every row comes once per epoch. The first epoch packs the rows part by part (`PART_ITEMS`), so that a run begins
    before all of them are encoded. val_loss is measured on the same rows as without packing.
    """

    def __init__(self, train: Examples, val: Examples, *, context: int, sizes: BatchSizes) -> None:
        self._train, self._seed, self._context = known_examples(train), sizes.seed, context
        self._row_ends = [0]  # of the parts that are known
        self._packed: dict[tuple[int, int], list[npt.NDArray[np.int64]]] = {}
        self._partwise = PartwiseOrder(
            self._size_of_part, lambda: len(self._sequences(1, 0, len(self._train))), seed=sizes.seed
        )
        super().__init__(self._partwise, sizes)
        self._val = HeldOutExamples(val, sizes.val_items)

    @property
    def num_sequences(self) -> int:
        """Sequences of the first epoch; the others have as many, or a few less."""
        return self._partwise.first_size

    @property
    def num_rows(self) -> int:
        """Rows per epoch."""
        return len(self._train)

    @property
    def has_validation(self) -> bool:
        """Return whether there is a usable row in the val split, or one in the making."""
        return self._val.is_there

    def progress(self) -> str:
        """Say how many of the tokens are made; empty once they all are."""
        return self._train.progress()

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        self._train.announce(step, lambda each: [int(row) for rows in self._sequences_at(each) for row in rows])
        return [
            concatenate([self._train[int(row)] for rows in sequences for row in rows])
            for sequences in self.split(self._sequences_at(step))
        ]

    def validation(self) -> list[MicroBatch]:
        """Return the first rows of the val split."""
        return [concatenate(rows) for rows in self._fill(self._val.rows(), self._context * self.micro_batch)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the dataset's rows in each sequence of a step."""
        return [[self._train[int(row)].row for row in rows] for rows in self._sequences_at(step)]

    def _sequences_at(self, step: int) -> list[npt.NDArray[np.int64]]:
        sequences = []
        for epoch, place in zip(*self.draw(step), strict=True):
            if epoch:
                sequences.append(self._sequences(int(epoch), 0, len(self._train))[place])
            else:
                part, at = self._partwise.part_of(int(place))
                sequences.append(self._sequences(0, self._row_ends[part], self._row_ends[part + 1], part=part)[at])
        return sequences

    def _size_of_part(self, part: int) -> int | None:
        rows = self._train.size_of_part(part)
        if rows is None:
            return None
        first = self._row_ends[part]
        self._row_ends.append(first + rows)
        return len(self._sequences(0, first, first + rows, part=part))

    def _sequences(self, epoch: int, first: int, last: int, *, part: int = 0) -> list[npt.NDArray[np.int64]]:
        """Return the rows of every sequence of an epoch, or of a part of the first one: the rows from `first` to before
        `last`.

        Their number follows from the lengths alone, so it is the same for every epoch but the first.
        """
        if (epoch, part) not in self._packed:
            while len(self._packed) > 1:
                self._packed.pop(next(iter(self._packed)))
            rows = np.random.default_rng((self._seed, epoch, 1, part)).permutation(last - first)
            sequence_of_row = pack_rows(positions_of(self._train.lengths(first, last))[rows], self._context)
            by_sequence = np.argsort(sequence_of_row, kind="stable")
            borders = np.searchsorted(sequence_of_row[by_sequence], np.arange(1, sequence_of_row.max(initial=-1) + 1))
            self._packed[epoch, part] = np.split(rows[by_sequence] + first, borders) if last > first else []
        return self._packed[epoch, part]

    @staticmethod
    def _fill(examples: list[Example], max_positions: int) -> list[list[Example]]:
        """Split the examples, in order, into parts of at most `max_positions`."""
        parts: list[list[Example]] = []
        room = 0
        for example in examples:
            length = len(example.ids) - 1
            if length > room:
                parts.append([])
                room = max_positions
            parts[-1].append(example)
            room -= length
        return parts


def concatenate(examples: list[Example]) -> MicroBatch:
    """Concatenate rows into one row of tokens, with their positions and ends."""
    lengths = [len(example.ids) - 1 for example in examples]
    targets = torch.from_numpy(np.concatenate([example.targets[1:] for example in examples]))
    columns = (targets != IGNORE).nonzero()[:, 0]
    return MicroBatch(
        torch.from_numpy(np.concatenate([example.ids[:-1] for example in examples]))[None],
        targets[None],
        len(columns),
        columns=columns,
        positions=torch.cat([torch.arange(length) for length in lengths])[None],
        row_ends=torch.tensor(lengths).cumsum(0),
    )


class SftBatches(StepBatches):
    """Conversations in an order that follows from (seed, epoch), right-padded to the longest of the micro-batch."""

    def __init__(self, train: Examples, val: Examples, *, pad_id: int, sizes: BatchSizes) -> None:
        self._train, self._pad_id = known_examples(train), pad_id
        super().__init__(PartwiseOrder(self._train.size_of_part, lambda: len(self._train), seed=sizes.seed), sizes)
        self._val = HeldOutExamples(val, sizes.val_items)

    @property
    def has_validation(self) -> bool:
        """Return whether there is a usable row in the val split, or one in the making."""
        return self._val.is_there

    def progress(self) -> str:
        """Say how many of the tokens are made; empty once they all are."""
        return self._train.progress()

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        self._train.announce(step, lambda each: self.draw(each)[1].tolist())
        return [self._pad([self._train[int(index)] for index in part]) for part in self.split(self.draw(step)[1])]

    def validation(self) -> list[MicroBatch]:
        """Return the first rows of the val split."""
        return [self._pad(rows) for rows in self.split(self._val.rows())]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the dataset's row of each item of a step."""
        return [[self._train[int(index)].row] for index in self.draw(step)[1]]

    def _pad(self, examples: list[Example]) -> MicroBatch:
        length = padded_length(max(len(example.ids) for example in examples))
        inputs = np.full((len(examples), length), self._pad_id, dtype=np.int64)
        targets = np.full((len(examples), length), IGNORE, dtype=np.int64)
        for index, example in enumerate(examples):
            inputs[index, : len(example.ids) - 1] = example.ids[:-1]
            targets[index, : len(example.ids) - 1] = example.targets[1:]
        columns = (targets != IGNORE).any(axis=0).nonzero()[0]
        return MicroBatch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            int((targets != IGNORE).sum()),
            columns=torch.from_numpy(columns),
        )
