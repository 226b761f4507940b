"""Encode preference pairs and rated answers from rows to token ids, with the reason for each row left out.

Conversations are rendered by `jobs.modeling.chat.render` alone, so training, reports and previews see the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.tool_calls import tools_of
from backend.domain.jobs.events import RowsEncodedEvent
from backend.errors import InvalidInput
from jobs.modeling.chat.render import ConversationRefused, Message, Tools, encode_completion
from jobs.modeling.dataset_files import Row, Split, read_rows
from jobs.reporter import Reporter

Problem = Literal["same sides", "prompt too long"]
Item = TypeVar("Item")


class Pair(TypedDict):
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
RatedIds = tuple[list[int], list[int], bool]
"""(prompt ids, answer ids, desirable)."""


@dataclass(frozen=True)
class Rated:
    """A desirable or undesirable answer. `mismatched` is another row's answer after this row's prompt (see `kto_divergence`)."""

    answered: Answered
    desirable: bool
    mismatched: Answered


def load_pairs(dataset: Path, split: Split, *, tokenizer: PreTrainedTokenizerBase, context: int, reporter: Reporter) -> list[AnsweredPair]:
    """Encode a split's pairs; unusable or refused ones are left out, counted and logged.

    Raises InvalidInput if no pair of the train split is left.
    """

    def encode(row: Row) -> tuple[AnsweredPair] | Problem:
        ids = usable_ids(pair_of(row), tokenizer=tokenizer, context=context)
        if isinstance(ids, str):
            return ids
        return ((_answered(ids["prompt_ids"], ids["chosen_ids"], context), _answered(ids["prompt_ids"], ids["rejected_ids"], context)),)

    return _encode_split(dataset, split, encode, item="pair", reporter=reporter)


def load_rated(
    dataset: Path, split: Split, *, tokenizer: PreTrainedTokenizerBase, context: int, seed: int, reporter: Reporter
) -> list[Rated]:
    """Encode a split's single answers, good or bad; a preference pair gives one of each. Rows are left out as by `load_pairs`.

    Raises InvalidInput if no answer of the train split is left, or all its answers share one prompt, so that none could be mismatched.
    """

    def encode(row: Row) -> tuple[RatedIds, ...] | Problem:
        return _rated_ids(row, tokenizer=tokenizer, context=context)

    answers = _encode_split(dataset, split, encode, item="row", reporter=reporter)
    mismatched = _other_prompts_answers([prompt for prompt, _, _ in answers], seed=seed)
    if mismatched is None:
        if split == "val":
            reporter.log("All answers of the val split share one prompt, so val_loss is not measured.")
            return []
        raise InvalidInput(
            f"All {len(answers):,} answers of the {split} split share one prompt, and kto compares answers with other prompts' answers.",
            remedy="Use more rows, or objective dpo.",
            field="dataset",
        )
    return [
        Rated(_answered(prompt, answer, context), desirable, _answered(prompt, answers[other][1], context))
        for (prompt, answer, desirable), other in zip(answers, mismatched, strict=True)
    ]


def _other_prompts_answers(prompts: Sequence[list[int]], *, seed: int) -> list[int] | None:
    """Draw for each item the index of an item with another prompt; None if all prompts are equal. Items are arranged in a ring in random
    order; each takes the first item after its run of equal prompts.
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


def pair_of(row: Row) -> Pair:
    """Read a preference row as messages."""
    return {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"], "tools": tools_of(row)}


def usable_ids(pair: Pair, *, tokenizer: PreTrainedTokenizerBase, context: int) -> PairIds | Problem:
    """Encode a pair, or return why it is unusable. Raises ConversationRefused."""
    if pair["chosen"] == pair["rejected"]:
        return "same sides"
    ids = encode_pair(pair, tokenizer=tokenizer)
    return "prompt too long" if len(ids["prompt_ids"]) >= context else ids


def encode_pair(pair: Pair, *, tokenizer: PreTrainedTokenizerBase) -> PairIds:
    """Encode a pair. A token that spans the border of prompt and completion belongs to the completion, on both sides.

    Raises ConversationRefused if the template does not take the pair.
    """
    prompt, tools = pair["prompt"], pair["tools"]
    heads, tails = zip(
        *(encode_completion(tokenizer, prompt, side, tools=tools) for side in (pair["chosen"], pair["rejected"])), strict=True
    )
    shared = min(map(len, heads))
    chosen, rejected = ([*head[shared:], *tail] for head, tail in zip(heads, tails, strict=True))
    return {"prompt_ids": heads[0][:shared], "chosen_ids": chosen, "rejected_ids": rejected}


def encode_pairs(
    pairs: Sequence[Pair], *, tokenizer: PreTrainedTokenizerBase, context: int
) -> list[tuple[EncodedSide, EncodedSide] | None]:
    """Encode pairs as (chosen, rejected) sides; None for a pair whose prompt fills the context."""
    sides: list[tuple[EncodedSide, EncodedSide] | None] = []
    for pair in pairs:
        ids = encode_pair(pair, tokenizer=tokenizer)
        prompt = ids["prompt_ids"]
        full = len(prompt) >= context
        sides.append(None if full else (_cut(prompt, ids["chosen_ids"], context), _cut(prompt, ids["rejected_ids"], context)))
    return sides


def encode_rated(row: Row, *, tokenizer: PreTrainedTokenizerBase, context: int) -> EncodedSide | None:
    """Encode the answer of a kto row; None if its prompt fills the context. Raises ConversationRefused."""
    prompt, answer = _rated_ids_of(row, tokenizer)
    return None if len(prompt) >= context else _cut(prompt, answer, context)


def _encode_split(
    dataset: Path, split: Split, encode: Callable[[Row], tuple[Item, ...] | Problem], *, item: str, reporter: Reporter
) -> list[Item]:
    """Encode a split's rows, each into items or a problem; count and log what is left out, calling a row an `item`."""
    items: list[Item] = []
    left_out: dict[Problem, int] = {"same sides": 0, "prompt too long": 0}
    refused: list[str] = []
    rows = read_rows(dataset, split)
    for row in rows:
        try:
            encoded = encode(row)
        except ConversationRefused as error:
            refused.append(error.message)
            continue
        if isinstance(encoded, str):
            left_out[encoded] += 1
        else:
            items += encoded
    same, too_long = left_out["same sides"], left_out["prompt too long"]
    if same:
        reporter.log(f"{same:,} of {len(rows):,} {split} {item}s have equal sides and are left out.")
    if too_long:
        reporter.log(f"{too_long:,} of {len(rows):,} {split} {item}s have a prompt that fills the context and are left out.")
    if refused:
        reporter.log(f"{len(refused):,} of {len(rows):,} {split} {item}s are left out. The first: {refused[0]}")
    reporter.emit(RowsEncodedEvent(split=split, rows=len(rows), zero_label_rows=same + too_long, truncated=0, refused=len(refused)))
    if split == "train" and not items:
        why = f" {len(refused):,} are refused; the first: {refused[0]}" if refused else ""
        raise InvalidInput(f"None of the {len(rows):,} train {item}s can be used.{why}", field="dataset")
    return items


def _rated_ids(row: Row, *, tokenizer: PreTrainedTokenizerBase, context: int) -> tuple[RatedIds, ...] | Problem:
    """Return the answers of a kto row or a preference row."""
    if "label" not in row:
        ids = usable_ids(pair_of(row), tokenizer=tokenizer, context=context)
        if isinstance(ids, str):
            return ids
        return (ids["prompt_ids"], ids["chosen_ids"], True), (ids["prompt_ids"], ids["rejected_ids"], False)
    prompt, answer = _rated_ids_of(row, tokenizer)
    return "prompt too long" if len(prompt) >= context else ((prompt, answer, bool(row["label"])),)


def _rated_ids_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    return encode_completion(tokenizer, row["prompt"], row["completion"], tools=tools_of(row))


def _answered(prompt: list[int], answer: list[int], context: int) -> Answered:
    return Answered([*prompt, *answer][:context], len(prompt))


def _cut(prompt: list[int], answer: list[int], context: int) -> EncodedSide:
    ids = [*prompt, *answer]
    mask = [False] * len(prompt) + [True] * len(answer)
    return EncodedSide(ids[:context], mask[:context], ids)
