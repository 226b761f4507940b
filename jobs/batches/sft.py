"""Fine-tuning data: conversations rendered with the checkpoint's template, only the assistants' answers trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.conversations import Conversation, conversation_of
from backend.domain.training.packing import count_sequences, pack_rows
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE, MicroBatch, StepBatches
from jobs.modeling.chat.render import ConversationRefused, EncodedChat, training_chats
from jobs.modeling.dataset_files import Row, Split, read_rows
from jobs.reporter import Reporter

PAD_TO = 16


@dataclass(frozen=True)
class Example:
    """One conversation cut to the context: token ids and targets, both of the same length, not yet shifted.

    `whole` holds the ids before the cut. `skipped` counts answers that are trained on nowhere (see `training_chats`). `row` is the
    dataset's row, counted from 1.
    """

    ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    whole: list[int] = field(default_factory=list, repr=False, compare=False)
    skipped: int = 0
    row: int = field(default=0, compare=False)

    @property
    def teaches(self) -> bool:
        """Whether any token is trained on. The first never is: nothing stands before it to predict it from."""
        return bool((self.targets[1:] != IGNORE).any())


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row, *, context: int) -> list[Example]:
    """Render an instruction or chat row with the checkpoint's template and cut it: what the trainer sees of it.

    Mostly one conversation; more where the template rewrites earlier answers (see `training_chats`). Raises ConversationRefused if the
    template does not take the row.
    """
    conversation = conversation_of(row) or Conversation([])
    return [_cut(chat, context) for chat in training_chats(tokenizer, conversation.messages, tools=conversation.tools)]


def _cut(chat: EncodedChat, context: int) -> Example:
    tokens = np.asarray(chat.ids[:context], dtype=np.int64)
    targets = np.where(np.asarray(chat.mask[:context], dtype=bool), tokens, IGNORE)
    return Example(tokens, targets, whole=chat.ids, skipped=chat.skipped)


def encode_rows(dataset: Path, split: Split, *, tokenizer: PreTrainedTokenizerBase, context: int, reporter: Reporter) -> list[Example]:
    """Encode a split, cut to `context` tokens; rows with nothing left to train on are left out, counted and logged.

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
        truncated += any(len(example.whole) > context for example in encoded)
        skipped += sum(example.skipped for example in encoded)
        taught = [Example(example.ids, example.targets, row=number) for example in encoded if example.teaches]
        empty += not taught
        examples += taught
    if refused:
        reporter.log(f"{len(refused):,} of {len(rows):,} {split} rows are left out. The first: {refused[0]}")
    if skipped:
        reporter.log(f"{skipped:,} answers of the {split} rows are not trained on: the template writes them as generation never would.")
    if empty:
        reporter.log(f"{empty:,} of {len(rows):,} {split} rows have nothing to train on within {context} tokens and are left out.")
    if truncated:
        reporter.log(f"{truncated:,} of {len(rows):,} {split} rows are longer than {context} tokens and are cut.")
    reporter.event("rows_encoded", split=split, rows=len(rows), zero_label_rows=empty, truncated=truncated, refused=len(refused))
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


def positions_of(kept_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many positions rows take that share a sequence: one fewer than they have tokens, as nothing follows the last."""
    return np.maximum(kept_tokens - 1, 0)


def padded_length(longest: int) -> int:
    """Return how many positions each row of a micro-batch takes whose longest row has `longest` tokens (one fewer inputs)."""
    return -(-(longest - 1) // PAD_TO) * PAD_TO


class PackedBatches(StepBatches):
    """Conversations that share sequences of at most `context` positions, laid end to end: no position is padding.

    A micro-batch is `micro_batch` sequences in one row of tokens. Which rows share one, and the order, follow from (seed, epoch); every
    row comes once an epoch. val_loss is measured on the same rows as without packing.
    """

    def __init__(
        self,
        train: list[Example],
        val: list[Example],
        *,
        pad_id: int,
        context: int,
        micro_batch: int,
        grad_accum_steps: int,
        measured: int,
        seed: int,
    ) -> None:
        self._train, self._seed, self._context = train, seed, context
        self._padded: dict[str, int] = {"pad_id": pad_id, "micro_batch": micro_batch, "grad_accum_steps": grad_accum_steps}
        self._padded |= {"measured": measured, "seed": seed}
        self._lengths = positions_of(np.array([len(example.ids) for example in train], dtype=np.int64))
        sequences = count_sequences(self._lengths, context)
        super().__init__(sequences, micro_batch=micro_batch, grad_accum_steps=grad_accum_steps, seed=seed)
        self._epochs: dict[int, list[npt.NDArray[np.int64]]] = {}
        self._val = val[:measured]

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch."""
        return self._order.size

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return len(self._train)

    def padded(self) -> SftBatches:
        """Return batches of the same rows, one a sequence."""
        return SftBatches(self._train, self._val, **self._padded)

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        return [lay_end_to_end([self._train[row] for rows in cut for row in rows]) for cut in self.cut(self._drawn(step))]

    def validation(self) -> list[MicroBatch]:
        """Return the first rows of the val split."""
        return [lay_end_to_end(rows) for rows in self._within(self._val, self._context * self.micro_batch)]

    def names_at(self, step: int) -> list[list[int]]:
        """Return the dataset's rows in each sequence of a step."""
        return [[self._train[row].row for row in rows] for rows in self._drawn(step)]

    def _drawn(self, step: int) -> list[npt.NDArray[np.int64]]:
        return [self._sequences(int(epoch))[place] for epoch, place in zip(*self.draw(step), strict=True)]

    def _sequences(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the rows of every sequence of an epoch; as many in each epoch, as that follows from the lengths alone."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            rows = np.random.default_rng((self._seed, epoch, 1)).permutation(len(self._train))
            where = pack_rows(self._lengths[rows], self._context)
            by_sequence = np.argsort(where, kind="stable")
            borders = np.searchsorted(where[by_sequence], np.arange(1, self._order.size))
            self._epochs[epoch] = np.split(rows[by_sequence], borders)
        return self._epochs[epoch]

    @staticmethod
    def _within(examples: list[Example], most: int) -> list[list[Example]]:
        """Return the examples in order, cut into parts of at most `most` positions."""
        parts: list[list[Example]] = []
        room = 0
        for example in examples:
            length = len(example.ids) - 1
            if length > room:
                parts.append([])
                room = most
            parts[-1].append(example)
            room -= length
        return parts


def lay_end_to_end(examples: list[Example]) -> MicroBatch:
    """Return rows as one row of tokens without a gap, with their positions and ends."""
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
    """Conversations in an order that follows from (seed, epoch), padded on the right to the longest of the micro-batch."""

    def __init__(
        self,
        train: list[Example],
        val: list[Example],
        *,
        pad_id: int,
        micro_batch: int,
        grad_accum_steps: int,
        measured: int,
        seed: int,
    ) -> None:
        super().__init__(len(train), micro_batch=micro_batch, grad_accum_steps=grad_accum_steps, seed=seed)
        self._train, self._val, self._pad_id = train, val[:measured], pad_id

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        return [self._pad([self._train[index] for index in cut]) for cut in self.cut(self.draw(step)[1])]

    def validation(self) -> list[MicroBatch]:
        """Return the first rows of the val split."""
        return [self._pad(rows) for rows in self.cut(self._val)]

    def names_at(self, step: int) -> list[list[int]]:
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
