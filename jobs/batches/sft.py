"""Supervised fine-tuning batches: conversations rendered with the checkpoint's template, assistant turns trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.conversations import Conversation, conversation_of
from backend.domain.jobs.events import RowsEncodedEvent
from backend.domain.training.packing import count_sequences, pack_rows
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE, BatchSizes, MicroBatch, StepBatches
from jobs.modeling.chat.render import ConversationRefused, EncodedChat, training_chats
from jobs.modeling.dataset_files import Row, Split, read_rows
from jobs.reporter import Reporter

PAD_TO = 16


@dataclass(frozen=True)
class Example:
    """One conversation truncated to the context: token ids and targets of equal length, not yet shifted.

    `untruncated` holds the ids before truncation. `skipped` counts answers that no example trains on (see `training_chats`). `row` is the
    dataset's row, counted from 1.
    """

    ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    untruncated: list[int] = field(default_factory=list, repr=False, compare=False)
    skipped: int = 0
    row: int = field(default=0, compare=False)

    @property
    def teaches(self) -> bool:
        """Return whether any token is trained on. The first never is: no token before it predicts it."""
        return bool((self.targets[1:] != IGNORE).any())


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row, *, context: int) -> list[Example]:
    """Render an instruction or chat row with the checkpoint's template and truncate it to the context.

    One example as a rule; more where the template rewrites earlier answers (see `training_chats`). Raises ConversationRefused if the
    template rejects the row.
    """
    conversation = conversation_of(row) or Conversation([])
    return [_truncate(chat, context) for chat in training_chats(tokenizer, conversation.messages, tools=conversation.tools)]


def _truncate(chat: EncodedChat, context: int) -> Example:
    tokens = np.asarray(chat.ids[:context], dtype=np.int64)
    targets = np.where(np.asarray(chat.mask[:context], dtype=bool), tokens, IGNORE)
    return Example(tokens, targets, untruncated=chat.ids, skipped=chat.skipped)


def encode_rows(dataset: Path, split: Split, *, tokenizer: PreTrainedTokenizerBase, context: int, reporter: Reporter) -> list[Example]:
    """Encode a split, truncated to `context` tokens; rows with no trained token are left out, counted and logged.

    Raises InvalidInput if no row of the train split is left.
    """
    examples, empty, truncated, skipped = [], 0, 0, 0
    refused: list[str] = []
    rows = read_rows(dataset, split)
    for number, row in enumerate(rows, 1):
        try:
            encoded = encode_row(tokenizer, row, context=context)
        except ConversationRefused as error:
            refused.append(error.message)
            continue
        truncated += any(len(example.untruncated) > context for example in encoded)
        skipped += sum(example.skipped for example in encoded)
        trained = [Example(example.ids, example.targets, row=number) for example in encoded if example.teaches]
        empty += not trained
        examples += trained
    if refused:
        reporter.log(f"{len(refused):,} of {len(rows):,} {split} rows are left out. The first: {refused[0]}")
    if skipped:
        reporter.log(
            f"{skipped:,} answers of the {split} rows are not trained on: generation never renders them as the template does here."
        )
    if empty:
        reporter.log(f"{empty:,} of {len(rows):,} {split} rows have nothing to train on within {context} tokens and are left out.")
    if truncated:
        reporter.log(f"{truncated:,} of {len(rows):,} {split} rows are longer than {context} tokens and are truncated.")
    reporter.emit(RowsEncodedEvent(split=split, rows=len(rows), zero_label_rows=empty, truncated=truncated, refused=len(refused)))
    if split == "train" and refused and not examples:
        raise InvalidInput(
            f"None of the {len(rows):,} train rows can be used. {len(refused):,} are refused; the first: {refused[0]}",
            remedy="Use a base whose chat template takes such conversations, or a dataset without what it refuses.",
            field="dataset",
        )
    if split == "train" and not examples:
        raise InvalidInput(
            f"None of the {len(rows):,} train rows has an answer to train on within a context of {context} tokens.",
            remedy="Use a longer context, or check that the rows have assistant messages (or completions).",
            field="dataset",
        )
    return examples


def positions_of(num_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the positions that packed rows take: one fewer than their tokens, as the last token predicts nothing."""
    return np.maximum(num_tokens - 1, 0)


def padded_length(longest: int) -> int:
    """Return the padded length of a micro-batch's rows, in positions, given its longest row in tokens (one more than its inputs)."""
    return -(-(longest - 1) // PAD_TO) * PAD_TO


class PackedBatches(StepBatches):
    """Conversations packed into sequences of at most `context` positions, without padding.

    A micro-batch is `micro_batch` sequences in one row of tokens. The packing and the order follow from (seed, epoch); every row comes
    once per epoch. val_loss is measured on the same rows as without packing.
    """

    def __init__(self, train: list[Example], val: list[Example], *, context: int, sizes: BatchSizes) -> None:
        self._train, self._seed, self._context = train, sizes.seed, context
        self._lengths = positions_of(np.array([len(example.ids) for example in train], dtype=np.int64))
        super().__init__(count_sequences(self._lengths, context), sizes)
        self._epochs: dict[int, list[npt.NDArray[np.int64]]] = {}
        self._val = val[: sizes.val_items]

    @property
    def num_sequences(self) -> int:
        """Sequences per epoch."""
        return self._order.size

    @property
    def num_rows(self) -> int:
        """Rows per epoch."""
        return len(self._train)

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        return [concatenate([self._train[row] for rows in sequences for row in rows]) for sequences in self.split(self._sequences_at(step))]

    def validation(self) -> list[MicroBatch]:
        """Return the first rows of the val split."""
        return [concatenate(rows) for rows in self._fill(self._val, self._context * self.micro_batch)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the dataset's rows in each sequence of a step."""
        return [[self._train[row].row for row in rows] for rows in self._sequences_at(step)]

    def _sequences_at(self, step: int) -> list[npt.NDArray[np.int64]]:
        return [self._sequences(int(epoch))[place] for epoch, place in zip(*self.draw(step), strict=True)]

    def _sequences(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the rows of every sequence of an epoch. The number of sequences follows from the lengths alone, so it is constant."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            rows = np.random.default_rng((self._seed, epoch, 1)).permutation(len(self._train))
            sequence_of_row = pack_rows(self._lengths[rows], self._context)
            by_sequence = np.argsort(sequence_of_row, kind="stable")
            borders = np.searchsorted(sequence_of_row[by_sequence], np.arange(1, self._order.size))
            self._epochs[epoch] = np.split(rows[by_sequence], borders)
        return self._epochs[epoch]

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

    def __init__(self, train: list[Example], val: list[Example], *, pad_id: int, sizes: BatchSizes) -> None:
        super().__init__(len(train), sizes)
        self._train, self._val, self._pad_id = train, val[: sizes.val_items], pad_id

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        return [self._pad([self._train[index] for index in part]) for part in self.split(self.draw(step)[1])]

    def validation(self) -> list[MicroBatch]:
        """Return the first rows of the val split."""
        return [self._pad(rows) for rows in self.split(self._val)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the dataset's row of each item of a step."""
        return [[self._train[index].row] for index in self.draw(step)[1]]

    def _pad(self, examples: list[Example]) -> MicroBatch:
        length = padded_length(max(len(example.ids) for example in examples))
        inputs = np.full((len(examples), length), self._pad_id, dtype=np.int64)
        targets = np.full((len(examples), length), IGNORE, dtype=np.int64)
        for index, example in enumerate(examples):
            inputs[index, : len(example.ids) - 1] = example.ids[:-1]
            targets[index, : len(example.ids) - 1] = example.targets[1:]
        columns = (targets != IGNORE).any(axis=0).nonzero()[0]
        return MicroBatch(
            torch.from_numpy(inputs), torch.from_numpy(targets), int((targets != IGNORE).sum()), columns=torch.from_numpy(columns)
        )
