"""Batches of pairs and of rated answers. Their order is a pure function of (seed, step), as of every objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from jobs.batches.base import IGNORE, StepBatches
from jobs.batches.preference_rows import Answered, AnsweredPair, Rated
from jobs.batches.sft import padded_length

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Floats = npt.NDArray[np.float32]
UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Sequences:
    """Answers behind their prompts, padded on the right: `inputs` and `targets` of shape (rows, tokens), already shifted by one.

    Targets are the answers' tokens, IGNORE elsewhere; `columns` are the positions that have one in any row.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    columns: torch.Tensor

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, torch.Tensor | Sequences):
                moved[each.name] = value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value.to(device)
        return replace(self, **moved)

    @property
    def trained(self) -> int:
        """Targets that are trained on."""
        return int((self.targets != IGNORE).sum())


@dataclass(frozen=True)
class PairBatch(Sequences):
    """Pairs: the chosen answers' rows, then as many rejected ones. A unit is a pair.

    `starts` are the positions of the answers' first targets: orpo learns the chosen side's prompt as well, so its targets begin
    earlier. `per_token`, pairs of the step divided by its chosen sides' targets, makes a sum over those a mean over the step's tokens
    once the loop has divided by pairs. `reference` are the reference's log-probabilities of all rows, where the objective has one.
    """

    starts: torch.Tensor
    per_token: float
    reference: torch.Tensor | None = None

    @property
    def units(self) -> int:
        """What the loss is averaged over."""
        return len(self.inputs) // 2


@dataclass(frozen=True)
class RatedBatch(Sequences):
    """Answers of which `desirable` are good, with the reference's log-probabilities. A unit is an answer.

    `mismatched` are other prompts' answers behind the same prompts. `per_good` and `per_bad`, answers of the step divided by its good
    (bad) ones, make a sum over those their mean once the loop has divided by answers; 0 where there is none.
    """

    desirable: torch.Tensor
    per_good: float
    per_bad: float
    reference: torch.Tensor
    mismatched: Sequences
    mismatched_reference: torch.Tensor

    @property
    def units(self) -> int:
        """What the loss is averaged over."""
        return len(self.inputs)


@dataclass(frozen=True)
class ScoredBatch:
    """Pairs to score: the chosen answers' whole rows, then as many rejected ones, padded on the right. A unit is a pair.

    `trained` counts tokens. No position predicts a token, so `columns` is empty.
    """

    inputs: torch.Tensor
    trained: int
    columns: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @property
    def units(self) -> int:
        """What the loss is averaged over."""
        return len(self.inputs) // 2

    def to(self, device: torch.device) -> ScoredBatch:
        """Return the batch on a device."""
        return replace(self, inputs=self.inputs.to(device, non_blocking=True))


class Shuffled(StepBatches, Generic[Item, Batch]):
    """Items in an order that follows from (seed, epoch), those of a step put into micro-batches by `length`.

    `collate` makes a micro-batch of items; its second argument are all items of the step. `items` is what they are called. The first
    `measured` items of the val split are validated on.
    """

    def __init__(
        self,
        train: Sequence[Item],
        val: Sequence[Item],
        *,
        items: str,
        collate: Callable[[Sequence[Item], Sequence[Item]], Batch],
        length: Callable[[Item], int] = lambda _: 0,
        micro_batch: int,
        grad_accum_steps: int,
        measured: int,
        seed: int,
    ) -> None:
        super().__init__(len(train), micro_batch=micro_batch, grad_accum_steps=grad_accum_steps, seed=seed)
        self.items = items
        self._train, self._collate, self._length = train, collate, length
        self._chosen = val[:measured]

    def at_step(self, step: int) -> list[Batch]:
        """Return the micro-batches of update `step` (the first is 1)."""
        items = [self._train[index] for index in self._drawn(step)]
        return [self._collate(part, items) for part in self.cut(items)]

    def validation(self) -> list[Batch]:
        """Return the first items of the val split."""
        return [self._collate(part, self._chosen) for part in self.cut(self._chosen)]

    def names_at(self, step: int) -> list[list[int]]:
        """Return the place of each item of a step among those that are used, the first being 1."""
        return [[index + 1] for index in self._drawn(step)]

    def _drawn(self, step: int) -> list[int]:
        """Return the items of a step: alike lengths together leave less padding, and the sum over the step stays what it is."""
        return sorted((int(index) for index in self.draw(step)[1]), key=lambda index: self._length(self._train[index]))


@dataclass(frozen=True)
class ReferredPair:
    """A pair, with the reference's log-probabilities of (chosen, rejected) where there is one."""

    sides: AnsweredPair
    reference: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReferredRated:
    """A rated answer with the reference's log-probabilities of it and of the mismatched one."""

    rated: Rated
    reference: tuple[float, float]


def pair_length(pair: ReferredPair) -> int:
    """Return the tokens of a pair's longer side."""
    return max(len(side.ids) for side in pair.sides)


def collate_pairs(pairs: Sequence[ReferredPair], step: Sequence[ReferredPair], *, pad_id: int, prompts: bool = False) -> PairBatch:
    """Return pairs as one batch. With `prompts` the chosen side's prompt has targets too, and counts among the step's tokens."""
    sides = [pair.sides[0] for pair in pairs] + [pair.sides[1] for pair in pairs]
    starts = [1 if prompts and row < len(pairs) else side.start for row, side in enumerate(sides)]
    padded = pad([Answered(side.ids, start) for side, start in zip(sides, starts, strict=True)], pad_id=pad_id)
    tokens = sum(len(pair.sides[0].ids) - (1 if prompts else max(pair.sides[0].start, 1)) for pair in step)
    reference = None
    if any(pair.reference is not None for pair in pairs):
        reference = torch.tensor([(pair.reference or UNKNOWN)[side] for side in (0, 1) for pair in pairs], dtype=torch.float32)
    return PairBatch(
        padded.inputs,
        padded.targets,
        padded.columns,
        starts=torch.tensor([max(side.start - 1, 0) for side in sides]),
        per_token=len(step) / max(tokens, 1),
        reference=reference,
    )


def collate_rated(items: Sequence[ReferredRated], step: Sequence[ReferredRated], *, pad_id: int) -> RatedBatch:
    """Return rated answers as one batch."""
    padded = pad([item.rated.answered for item in items], pad_id=pad_id)
    good = sum(item.rated.desirable for item in step)
    own, others = (torch.tensor([item.reference[place] for item in items], dtype=torch.float32) for place in (0, 1))
    return RatedBatch(
        padded.inputs,
        padded.targets,
        padded.columns,
        desirable=torch.tensor([item.rated.desirable for item in items]),
        per_good=len(step) / good if good else 0.0,
        per_bad=len(step) / (len(step) - good) if good < len(step) else 0.0,
        reference=own,
        mismatched=pad([item.rated.mismatched for item in items], pad_id=pad_id),
        mismatched_reference=others,
    )


def collate_scored(pairs: Sequence[ReferredPair], step: Sequence[ReferredPair], *, pad_id: int) -> ScoredBatch:
    """Return pairs as one batch for a network that scores whole rows."""
    sides = [pair.sides[0] for pair in pairs] + [pair.sides[1] for pair in pairs]
    whole = pad([Answered([*side.ids, pad_id], 0) for side in sides], pad_id=pad_id)  # the token too many is what shifting cuts off
    return ScoredBatch(whole.inputs, trained=sum(len(side.ids) for side in sides))


def pad(rows: Sequence[Answered], *, pad_id: int) -> Sequences:
    """Return rows as one batch, as long as `padded_length` says; the tokens from `start` on are the targets (the first token never is)."""
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


def answers_of(pairs: Sequence[AnsweredPair]) -> list[Answered]:
    """Return both sides of pairs in a row: chosen, rejected, chosen, ..."""
    return [side for pair in pairs for side in pair]


def refer(values: Floats) -> list[tuple[float, float]]:
    """Return log-probabilities of shape (items * 2,) as pairs."""
    return [(float(one), float(other)) for one, other in values.reshape(-1, 2)]
