"""Supervised fine-tuning: conversations rendered with the checkpoint's template, and batches of them that train on
assistant turns.

Conversations are encoded once, stored untruncated, and cut to a run's context when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.conversations import TemplateInput, as_conversation
from backend.domain.data.splits import Split
from backend.domain.jobs.events import RowsEncodedEvent
from backend.domain.json_values import Row
from backend.domain.training.packing import pack_rows
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE, BatchSizes, MicroBatch, PartwiseOrder, StepBatches
from jobs.batches.token_files import RowTokens, StoredTokens, TokenItem, id_type, trained_bit
from jobs.batches.token_making import Maker, TokenForm, TokenSource
from jobs.modeling.chat import ConversationRefused, EncodedChat, training_chats
from jobs.reporter import Reporter

PART_ITEMS = 1 << 13
"""Conversations that the first epoch shuffles together."""


@dataclass(frozen=True)
class Example:
    """One conversation truncated to the context: token ids and targets of equal length, not yet shifted.

    `untruncated` holds the ids before truncation. `skipped` counts answers that no example trains on (see
    `training_chats`). `row` is the dataset's row, counted from 1.
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

    One example as a rule; more where the template rewrites earlier answers (see `training_chats`). Raises
    ConversationRefused if the template rejects the row.
    """
    conversation = as_conversation(row) or TemplateInput([])
    return [
        _truncate(chat, context) for chat in training_chats(tokenizer, conversation.messages, tools=conversation.tools)
    ]


def _truncate(chat: EncodedChat, context: int) -> Example:
    tokens = np.asarray(chat.ids[:context], dtype=np.int64)
    targets = np.where(np.asarray(chat.mask[:context], dtype=bool), tokens, IGNORE)
    return Example(tokens, targets, untruncated=chat.ids, skipped=chat.skipped)


def _chat_tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[RowTokens]:
    dtype = np.dtype(id_type(len(tokenizer), has_marks=True))
    return [_row_tokens(tokenizer, row, dtype) for row in rows]


def _row_tokens(tokenizer: PreTrainedTokenizerBase, row: Row, dtype: np.dtype[Any]) -> RowTokens:
    conversation = as_conversation(row) or TemplateInput([])
    try:
        chats = training_chats(tokenizer, conversation.messages, tools=conversation.tools)
    except ConversationRefused as error:
        return RowTokens(refusal=error.message)
    items = []
    for chat in chats:
        trained = np.asarray(chat.mask, dtype=bool)
        ids = np.asarray(chat.ids, dtype=dtype) | (trained * trained_bit(dtype)).astype(dtype)
        places = np.flatnonzero(trained[1:])
        items.append(TokenItem((ids,), value=int(places[0]) + 1 if len(places) else -1))
    return RowTokens(tuple(items), skipped=sum(chat.skipped for chat in chats))


CHAT = TokenForm("chat", segments=1, encode=_chat_tokens, has_marks=True, streams=True)
"""Conversations, untruncated. An item's value is its first trained token that any token precedes, -1 without one."""


class StoredExamples:
    """The conversations of a split that train within a context, as `Example`s that are cut out of the stored tokens
    when they are needed.

    They are counted from 0 in the order in which they are stored.
    """

    def __init__(self, tokens: StoredTokens, *, context: int) -> None:
        self.tokens, self._context = tokens, context
        self._usable = np.empty(0, dtype=np.int64)
        self._looked_at = 0
        self._take_up()

    def _take_up(self) -> None:
        """Take up items that were made since."""
        first = np.asarray(self.tokens.values[self._looked_at :])
        teaches = np.flatnonzero((first >= 1) & (first < self._context)) + self._looked_at
        self._usable, self._looked_at = np.concatenate([self._usable, teaches]), self.tokens.num_items

    def size_of_part(self, part: int) -> int | None:
        """Return the examples of a part, waiting until it is known; None behind the last."""
        begin, end = part * PART_ITEMS, (part + 1) * PART_ITEMS
        self.tokens.wait(lambda: self.tokens.num_items >= end)
        self._take_up()
        if begin >= self.tokens.num_items:
            return None
        return int(np.searchsorted(self._usable, end) - np.searchsorted(self._usable, begin))

    def __len__(self) -> int:
        self.tokens.wait(lambda: False)
        self._take_up()
        return len(self._usable)

    def lengths(self, first: int = 0, last: int | None = None) -> npt.NDArray[np.int64]:
        """Return the tokens, within the context, of the examples from `first` to before `last`."""
        items = self._usable[first:last]
        if not len(items):
            return np.empty(0, dtype=np.int64)
        lengths = self.tokens.lengths(int(items[0]), int(items[-1]) + 1)[:, 0]
        return np.asarray(np.minimum(lengths[items - items[0]], self._context), dtype=np.int64)

    def announce(self, step: int, rows_of: Callable[[int], Iterable[int]]) -> None:
        """Have brought what the steps from this one on read, if it has to be; `rows_of` returns a step's examples."""
        self.tokens.announce(step, lambda each: [self._span(int(self._usable[row])) for row in rows_of(each)])

    def _span(self, item: int) -> tuple[int, int]:
        begin, end = self.tokens.bounds(item)
        return begin, min(end, begin + self._context)

    def __getitem__(self, index: int) -> Example:
        item = int(self._usable[index])
        stored = self.tokens.read(*self._span(item))
        bit = trained_bit(stored.dtype)
        ids = (stored & (bit - 1)).astype(np.int64)
        return Example(ids, np.where(stored & bit, ids, IGNORE), row=int(self.tokens.rows[item]) + 1)

    def progress(self) -> str:
        """Say how many of the tokens are made; empty once they all are."""
        return self.tokens.note()


def load_examples(
    source: TokenSource, split: Split, *, context: int, maker: Maker | None = None
) -> StoredExamples | list[Example]:
    """Return a split's conversations, truncated to `context` tokens; rows with no trained token are left out, counted
    and logged.

    With a maker the tokens of a large split may still be in the making; rows are counted and logged once they are made.
    Raises InvalidInput if no row of the train split is left.
    """
    tokens = source.open(CHAT, split, maker=maker)
    if tokens is None:
        return []

    def tell() -> None:
        _tell_counts(tokens, split, context=context, reporter=source.reporter)

    if tokens.is_complete:
        tell()
    else:
        tokens.on_complete.append(tell)
    return StoredExamples(tokens, context=context)


def _tell_counts(tokens: StoredTokens, split: Split, *, context: int, reporter: Reporter) -> None:
    """Log and report the rows that are left out or truncated. Raises InvalidInput if no train row is left."""
    counts, item_rows, first = tokens.manifest.counts, np.asarray(tokens.rows), np.asarray(tokens.values)
    num_rows, refused, skipped, refusal = counts["rows"], counts["refused"], counts["skipped"], counts["refusal"]
    truncated = len(np.unique(item_rows[tokens.lengths()[:, 0] > context]))
    trained = len(np.unique(item_rows[(first >= 1) & (first < context)]))
    empty = num_rows - refused - trained
    if refused:
        reporter.log(f"{refused:,} of {num_rows:,} {split} rows are left out. The first: {refusal}")
    if skipped:
        reporter.log(
            f"{skipped:,} answers of the {split} rows are not trained on: generation never renders them as the template"
            " does here."
        )
    if empty:
        reporter.log(
            f"{empty:,} of {num_rows:,} {split} rows have nothing to train on within {context} tokens and are left out."
        )
    if truncated:
        reporter.log(f"{truncated:,} of {num_rows:,} {split} rows are longer than {context} tokens and are truncated.")
    reporter.emit(
        RowsEncodedEvent(split=split, rows=num_rows, zero_label_rows=empty, truncated=truncated, refused=refused)
    )
    if split == "train" and refused and not trained:
        raise InvalidInput(
            f"None of the {num_rows:,} train rows can be used. {refused:,} are refused; the first: {refusal}",
            remedy="Use a base whose chat template takes such conversations, or a dataset without what it refuses.",
            field="dataset",
        )
    if split == "train" and not trained:
        raise InvalidInput(
            f"None of the {num_rows:,} train rows has an answer to train on within a context of {context} tokens.",
            remedy="Use a longer context, or check that the rows have assistant messages (or completions).",
            field="dataset",
        )


class ListedExamples:
    """Examples in a list, all of them known."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._lengths = np.array([len(example.ids) for example in examples], dtype=np.int64)

    def size_of_part(self, part: int) -> int | None:
        return None if part or not self._examples else len(self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def lengths(self, first: int = 0, last: int | None = None) -> npt.NDArray[np.int64]:
        return self._lengths[first:last]

    def announce(self, step: int, rows_of: object) -> None:
        """Do nothing: all are here."""

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def progress(self) -> str:
        return ""


Examples = StoredExamples | list[Example]


def known_examples(examples: Examples) -> StoredExamples | ListedExamples:
    """Return examples with their parts and lengths."""
    return ListedExamples(examples) if isinstance(examples, list) else examples


class HeldOutExamples:
    """The first examples of a val split."""

    def __init__(self, examples: Examples, count: int) -> None:
        self._examples, self._count = examples, count

    @property
    def is_there(self) -> bool:
        """Return whether there is an example, or a split in the making."""
        if isinstance(self._examples, StoredExamples) and not self._examples.tokens.is_complete:
            return True
        return len(self._examples) > 0

    def rows(self) -> list[Example]:
        """Return the examples, when the split is made."""
        return [self._examples[index] for index in range(min(self._count, len(self._examples)))]


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
