"""Batches of preference pairs and of rated answers, with a reference's log-probabilities where the loss needs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from jobs.batches.base import IGNORE, BatchSizes, StepBatches
from jobs.batches.preference_rows import Answered, AnsweredPair, Rated
from jobs.batches.sft import padded_length

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Floats = npt.NDArray[np.float32]
UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Sequences:
    """Prompts with their answers, right-padded: `inputs` and `targets` of shape (rows, tokens), already shifted by one.

    Targets are the answers' tokens, IGNORE elsewhere; `columns` are the positions that have a target in any row.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    columns: torch.Tensor

    def to(self, device: torch.device) -> Self:
        """Copy the batch to a device."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, torch.Tensor | Sequences):
                moved[each.name] = (
                    value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value.to(device)
                )
        return replace(self, **moved)

    @property
    def trained(self) -> int:
        """Number of tokens that are read: prompts with their answers, which end with a target, without padding."""
        lengths = torch.arange(2, self.targets.shape[1] + 2, device=self.targets.device)  # by a row's last target
        return int(((self.targets != IGNORE) * lengths).amax(dim=1).sum())


@dataclass(frozen=True)
class PairBatch(Sequences):
    """Pairs: rows of the chosen answers, then as many of the rejected ones. A unit is a pair.

    `starts` are the positions of the answers' first targets; ORPO trains on the chosen side's prompt as well, so its
    targets begin earlier. `per_token` is the step's number of pairs over its number of chosen targets: it turns a sum
    over those targets into their mean once the loop has divided by pairs. `reference` holds the reference's
    log-probabilities of all rows, if the objective has one.
    """

    starts: torch.Tensor
    per_token: float
    reference: torch.Tensor | None = None

    @property
    def units(self) -> int:
        """Number of terms that the loss is averaged over."""
        return len(self.inputs) // 2


@dataclass(frozen=True)
class RatedBatch(Sequences):
    """Rated answers with the reference's log-probabilities; `desirable` marks the good ones. A unit is an answer.

    `mismatched` holds other prompts' answers after the same prompts. `per_good` and `per_bad` are the step's number of
    answers over its number of good (bad) ones: they turn a sum over those into their mean once the loop has divided by
    answers; 0 if there are none.
    """

    desirable: torch.Tensor
    per_good: float
    per_bad: float
    reference: torch.Tensor
    mismatched: Sequences
    mismatched_reference: torch.Tensor

    @property
    def units(self) -> int:
        """Number of terms that the loss is averaged over."""
        return len(self.inputs)


@dataclass(frozen=True)
class ScoredBatch:
    """Pairs for a reward model: whole rows of the chosen answers, then as many rejected ones, right-padded. A unit is a
    pair.

    `trained` counts tokens. No position predicts a token, so `columns` is empty.
    """

    inputs: torch.Tensor
    trained: int
    columns: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @property
    def units(self) -> int:
        """Number of terms that the loss is averaged over."""
        return len(self.inputs) // 2

    def to(self, device: torch.device) -> ScoredBatch:
        """Copy the batch to a device."""
        return replace(self, inputs=self.inputs.to(device, non_blocking=True))


class ShuffledBatches(StepBatches, Generic[Item, Batch]):
    """Items in an order that follows from (seed, epoch); those of a step are sorted by `length` before they are split.

    `collate` builds a micro-batch from its items; its second argument is all items of the step. `items` names them in
    error messages.
    """

    def __init__(
        self,
        train: Sequence[Item],
        val: Sequence[Item],
        *,
        items: str,
        collate: Callable[[Sequence[Item], Sequence[Item]], Batch],
        length: Callable[[Item], int] = lambda _: 0,
        sizes: BatchSizes,
    ) -> None:
        super().__init__(len(train), sizes)
        self.items = items
        self._train, self._collate, self._length = train, collate, length
        self._val = val[: sizes.val_items]

    def at_step(self, step: int) -> list[Batch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        items = [self._train[index] for index in self._sorted_draw(step)]
        return [self._collate(part, items) for part in self.split(items)]

    def validation(self) -> list[Batch]:
        """Return the first items of the val split."""
        return [self._collate(part, self._val) for part in self.split(self._val)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return each item of a step as its place among the usable items; the first is 1."""
        return [[index + 1] for index in self._sorted_draw(step)]

    def _sorted_draw(self, step: int) -> list[int]:
        """Return the items of a step by length: similar lengths together need less padding, and the sum over the step
        is the same.
        """
        return sorted((int(index) for index in self.draw(step)[1]), key=lambda index: self._length(self._train[index]))


@dataclass(frozen=True)
class ReferencedPair:
    """A pair with the reference's log-probabilities of (chosen, rejected); None if the objective has no reference."""

    sides: AnsweredPair
    reference: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReferencedRated:
    """A rated answer with the reference's log-probabilities of (the answer, the mismatched one)."""

    rated: Rated
    reference: tuple[float, float]


def pair_length(pair: ReferencedPair) -> int:
    """Count the tokens of a pair's longer side."""
    return max(len(side.ids) for side in pair.sides)


def collate_pairs(
    pairs: Sequence[ReferencedPair], step: Sequence[ReferencedPair], *, pad_id: int, prompts: bool = False
) -> PairBatch:
    """Collate pairs. With `prompts` the chosen side's prompt has targets too, which count among the step's tokens."""
    sides = [pair.sides[0] for pair in pairs] + [pair.sides[1] for pair in pairs]
    starts = [1 if prompts and row < len(pairs) else side.start for row, side in enumerate(sides)]
    padded = pad([Answered(side.ids, start) for side, start in zip(sides, starts, strict=True)], pad_id=pad_id)
    tokens = sum(len(pair.sides[0].ids) - (1 if prompts else max(pair.sides[0].start, 1)) for pair in step)
    reference = None
    if any(pair.reference is not None for pair in pairs):
        reference = torch.tensor(
            [(pair.reference or UNKNOWN)[side] for side in (0, 1) for pair in pairs], dtype=torch.float32
        )
    return PairBatch(
        padded.inputs,
        padded.targets,
        padded.columns,
        starts=torch.tensor([max(side.start - 1, 0) for side in sides]),
        per_token=len(step) / max(tokens, 1),
        reference=reference,
    )


def collate_rated(items: Sequence[ReferencedRated], step: Sequence[ReferencedRated], *, pad_id: int) -> RatedBatch:
    """Collate rated answers."""
    padded = pad([item.rated.answered for item in items], pad_id=pad_id)
    good = sum(item.rated.desirable for item in step)
    answers, mismatched = (
        torch.tensor([item.reference[side] for item in items], dtype=torch.float32) for side in (0, 1)
    )
    return RatedBatch(
        padded.inputs,
        padded.targets,
        padded.columns,
        desirable=torch.tensor([item.rated.desirable for item in items]),
        per_good=len(step) / good if good else 0.0,
        per_bad=len(step) / (len(step) - good) if good < len(step) else 0.0,
        reference=answers,
        mismatched=pad([item.rated.mismatched for item in items], pad_id=pad_id),
        mismatched_reference=mismatched,
    )


def collate_scored(pairs: Sequence[ReferencedPair], step: Sequence[ReferencedPair], *, pad_id: int) -> ScoredBatch:
    """Collate pairs for a network that scores whole rows."""
    sides = [pair.sides[0] for pair in pairs] + [pair.sides[1] for pair in pairs]
    rows = pad([Answered([*side.ids, pad_id], 0) for side in sides], pad_id=pad_id)  # shifting drops the last token
    return ScoredBatch(rows.inputs, trained=sum(len(side.ids) for side in sides))


def pad(rows: Sequence[Answered], *, pad_id: int) -> Sequences:
    """Pad rows to `padded_length`. The tokens from `start` on are targets, but never the first token of a row."""
    length = max(padded_length(max(len(row.ids) for row in rows)), 1)
    inputs = np.full((len(rows), length), pad_id, dtype=np.int64)
    targets = np.full((len(rows), length), IGNORE, dtype=np.int64)
    for index, row in enumerate(rows):
        last = len(row.ids) - 1
        inputs[index, :last] = row.ids[:-1]
        first = max(row.start - 1, 0)
        targets[index, first:last] = row.ids[first + 1 :]
    columns = (targets != IGNORE).any(axis=0).nonzero()[0]
    return Sequences(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(columns))


def flatten_pairs(pairs: Sequence[AnsweredPair]) -> list[Answered]:
    """Flatten pairs to chosen, rejected, chosen, ..."""
    return [side for pair in pairs for side in pair]


def in_pairs(logprobs: Floats) -> list[tuple[float, float]]:
    """Reshape log-probabilities of shape (items * 2,) to a pair per item."""
    return [(float(first), float(second)) for first, second in logprobs.reshape(-1, 2)]
