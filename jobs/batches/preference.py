"""Preference pairs and rated answers: from rows to token ids, with the reason for each row left out, and to batches,
with a reference's log-probabilities where the loss needs them.

Conversations are rendered by `jobs.modeling.chat` alone, so training, reports and previews see the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Self, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.tool_calls import tools_of
from backend.domain.data.splits import Split
from backend.domain.jobs.events import RowsEncodedEvent
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE, BatchSizes, StepBatches
from jobs.batches.sft import padded_length
from jobs.batches.token_files import RowTokens, TokenItem
from jobs.batches.token_making import TokenForm, TokenSource
from jobs.modeling.chat import ConversationRefused, Message, Tools, encode_completion


class PreferencePair(TypedDict):
    """A prompt and its two completions, as messages; both may call `tools`."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: Tools


class PairIds(TypedDict):
    """Token ids of a prompt and of either completion, before truncation to the context."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class EncodedSide:
    """A prompt with one completion, truncated to the context.

    `mask` marks trained tokens; `untruncated` holds the ids before truncation.
    """

    ids: list[int]
    mask: list[bool]
    untruncated: list[int]


@dataclass(frozen=True)
class Answered:
    """A prompt with its answer, truncated to the context; the answer's ids begin at `start`."""

    ids: list[int]
    start: int


AnsweredPair = tuple[Answered, Answered]
"""(chosen, rejected)."""


@dataclass(frozen=True)
class Rated:
    """A desirable or undesirable answer. `mismatched` is another row's answer to this prompt (see `kto_divergence`)."""

    answered: Answered
    desirable: bool
    mismatched: Answered


def _pair_tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[RowTokens]:
    return [_of_row(tokenizer, row, _pair_items) for row in rows]


def _rated_tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[RowTokens]:
    return [_of_row(tokenizer, row, _rated_items) for row in rows]


def _of_row(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    encode: Callable[[PreTrainedTokenizerBase, Row], tuple[TokenItem, ...]],
) -> RowTokens:
    if "label" not in row and row["chosen"] == row["rejected"]:
        return RowTokens(problem=True)
    try:
        return RowTokens(encode(tokenizer, row))
    except ConversationRefused as error:
        return RowTokens(refusal=error.message)


def _pair_items(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[TokenItem, ...]:
    ids = encode_preference(read_preference(row), tokenizer=tokenizer)
    return (TokenItem((ids["prompt_ids"], ids["chosen_ids"], ids["rejected_ids"])),)


def _rated_items(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[TokenItem, ...]:
    """Return the answer of a kto row, or both of a preference row."""
    if "label" in row:
        return (TokenItem(_rated_ids_of(row, tokenizer), value=int(bool(row["label"]))),)
    ids = encode_preference(read_preference(row), tokenizer=tokenizer)
    return TokenItem((ids["prompt_ids"], ids["chosen_ids"]), value=1), TokenItem(
        (ids["prompt_ids"], ids["rejected_ids"]), value=0
    )


PAIRS = TokenForm("pairs", segments=3, encode=_pair_tokens)
"""Pairs, untruncated: prompt, chosen, rejected."""
RATED = TokenForm("rated", segments=2, encode=_rated_tokens)
"""Prompts with one answer, untruncated; the value of a good answer is 1."""


def load_pairs(source: TokenSource, split: Split, *, context: int) -> list[AnsweredPair]:
    """Return a split's pairs; unusable or refused ones are left out, counted and logged.

    Raises InvalidInput if no pair of the train split is left.
    """
    items = _usable_items(source, split, PAIRS, context=context, item="pair")
    return [
        (_answered(prompt, chosen, context), _answered(prompt, rejected, context))
        for (prompt, chosen, rejected), _ in items
    ]


def load_rated(source: TokenSource, split: Split, *, context: int, seed: int) -> list[Rated]:
    """Return a split's single answers, good or bad; a preference pair gives one of each. Rows are left out as by
    `load_pairs`.

    Raises InvalidInput if no answer of the train split is left, or all its answers share one prompt, so that none could
    be mismatched.
    """
    answers = [
        (prompt, answer, bool(value))
        for (prompt, answer), value in _usable_items(source, split, RATED, context=context, item="row")
    ]
    mismatched = _other_prompts_answers([prompt for prompt, _, _ in answers], seed=seed)
    if mismatched is None:
        if split == "val":
            source.reporter.log("All answers of the validation split share one prompt, so val_loss is not measured.")
            return []
        raise InvalidInput(
            f"All {len(answers):,} answers of the {split} split share one prompt, and kto compares answers with other"
            " prompts' answers.",
            remedy="Use more rows, or objective dpo.",
            field="dataset",
        )
    return [
        Rated(_answered(prompt, answer, context), desirable, _answered(prompt, answers[other][1], context))
        for (prompt, answer, desirable), other in zip(answers, mismatched, strict=True)
    ]


def _usable_items(
    source: TokenSource, split: Split, form: TokenForm, *, context: int, item: str
) -> list[tuple[list[list[int]], int]]:
    """Return a split's items whose prompt, their first segment, leaves room in the context: their segments and values.
    Count and log what is left out, calling a row an `item`. Raises InvalidInput if no item of the train split is left.
    """
    tokens = source.open(form, split)
    if tokens is None:
        source.reporter.emit(RowsEncodedEvent(split=split, rows=0, zero_label_rows=0, truncated=0, refused=0))
        return []
    counts, reporter = tokens.manifest.counts, source.reporter
    num_rows, refused, refusal, same = counts["rows"], counts["refused"], counts["refusal"], counts["problems"]
    fits = tokens.lengths()[:, 0] < context
    too_long = len(np.unique(np.asarray(tokens.rows)[~fits]))
    if same:
        reporter.log(f"{same:,} of {num_rows:,} {split} {item}s have equal sides and are left out.")
    if too_long:
        reporter.log(
            f"{too_long:,} of {num_rows:,} {split} {item}s have a prompt that fills the context and are left out."
        )
    if refused:
        reporter.log(f"{refused:,} of {num_rows:,} {split} {item}s are left out. The first: {refusal}")
    reporter.emit(
        RowsEncodedEvent(split=split, rows=num_rows, zero_label_rows=same + too_long, truncated=0, refused=refused)
    )
    if split == "train" and not fits.any():
        why = f" {refused:,} are refused; the first: {refusal}" if refused else ""
        raise InvalidInput(f"None of the {num_rows:,} train {item}s can be used.{why}", field="dataset")
    order = np.flatnonzero(fits)
    order = order[np.argsort(np.asarray(tokens.rows)[order], kind="stable")]  # in the order of the dataset
    return [(tokens.segments_of(index), int(tokens.values[index])) for index in order.tolist()]


def _other_prompts_answers(prompts: Sequence[list[int]], *, seed: int) -> list[int] | None:
    """Draw for each item the index of an item with another prompt; None if all prompts are equal. Items are arranged in
    a ring in random order; each takes the first item after its run of equal prompts.
    """
    count = len(prompts)
    if not count:
        return []
    order = np.random.default_rng((seed, 1)).permutation(count)
    numbers: dict[tuple[int, ...], int] = {}
    ring = np.array([numbers.setdefault(tuple(prompts[index]), len(numbers)) for index in order], dtype=np.int64)
    ends = np.flatnonzero(ring != np.roll(ring, -1))
    if not len(ends):
        return None
    others = order[(ends[np.searchsorted(ends, np.arange(count)) % len(ends)] + 1) % count]
    by_item = np.empty(count, dtype=np.int64)
    by_item[order] = others
    return [int(other) for other in by_item]


def read_preference(row: Row) -> PreferencePair:
    """Read a preference row as messages."""
    return {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"], "tools": tools_of(row)}


def encode_preference(pair: PreferencePair, *, tokenizer: PreTrainedTokenizerBase) -> PairIds:
    """Encode a pair. A token that spans the border of prompt and completion belongs to the completion, on both sides.

    Raises ConversationRefused if the template does not take the pair.
    """
    prompt, tools = pair["prompt"], pair["tools"]
    heads, tails = zip(
        *(encode_completion(tokenizer, prompt, side, tools=tools) for side in (pair["chosen"], pair["rejected"])),
        strict=True,
    )
    shared = min(map(len, heads))
    chosen, rejected = ([*head[shared:], *tail] for head, tail in zip(heads, tails, strict=True))
    return {"prompt_ids": heads[0][:shared], "chosen_ids": chosen, "rejected_ids": rejected}


def encode_preferences(
    pairs: Sequence[PreferencePair], *, tokenizer: PreTrainedTokenizerBase, context: int
) -> list[tuple[EncodedSide, EncodedSide] | None]:
    """Encode pairs as (chosen, rejected) sides; None for a pair whose prompt fills the context."""
    sides: list[tuple[EncodedSide, EncodedSide] | None] = []
    for pair in pairs:
        ids = encode_preference(pair, tokenizer=tokenizer)
        prompt = ids["prompt_ids"]
        full = len(prompt) >= context
        sides.append(
            None if full else (_cut(prompt, ids["chosen_ids"], context), _cut(prompt, ids["rejected_ids"], context))
        )
    return sides


def encode_rated(row: Row, *, tokenizer: PreTrainedTokenizerBase, context: int) -> EncodedSide | None:
    """Encode the answer of a kto row; None if its prompt fills the context. Raises ConversationRefused."""
    prompt, answer = _rated_ids_of(row, tokenizer)
    return None if len(prompt) >= context else _cut(prompt, answer, context)


def _rated_ids_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    return encode_completion(tokenizer, row["prompt"], row["completion"], tools=tools_of(row))


def _answered(prompt: list[int], answer: list[int], context: int) -> Answered:
    return Answered([*prompt, *answer][:context], len(prompt))


def _cut(prompt: list[int], answer: list[int], context: int) -> EncodedSide:
    ids = [*prompt, *answer]
    mask = [False] * len(prompt) + [True] * len(answer)
    return EncodedSide(ids[:context], mask[:context], ids)


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
