"""Answers to learn from, good and bad: which rows are kept, and the ids that are made of them.

Rendering a conversation is `jobs.modeling.chat.render`'s alone, so a pair means here what it means everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.tool_calls import tools_of
from backend.errors import InvalidInput
from jobs.modeling.chat.render import ConversationRefused, Message, Tools, encode_completion
from jobs.modeling.dataset_files import Row, Split, read_rows
from jobs.training.context import Parts

Problem = Literal["same sides", "prompt too long"]
Item = TypeVar("Item")


class Pair(TypedDict):
    """A prompt and two ways to go on, as messages; `tools` may be called in both."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: Tools


class PairIds(TypedDict):
    """The ids of a prompt and, behind it, of either side, before the cut."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class EncodedSide:
    """A prompt with one of its answers, cut to the context. `mask` marks what is trained on; `whole` holds the ids before the cut."""

    ids: list[int]
    mask: list[bool]
    whole: list[int]


@dataclass(frozen=True)
class Answered:
    """A prompt with an answer, cut to the context: `ids`, of which the answer's begin at `start`."""

    ids: list[int]
    start: int


AnsweredPair = tuple[Answered, Answered]
"""(chosen, rejected)."""


@dataclass(frozen=True)
class Rated:
    """An answer that is good or bad. `mismatched` is another row's answer behind this row's prompt (see `kto_divergence`)."""

    answered: Answered
    desirable: bool
    mismatched: Answered


def load_pairs(parts: Parts, split: Split) -> list[AnsweredPair]:
    """Return a split's pairs; ones that teach nothing or are refused are left out, counted and logged.

    Raises InvalidInput if no pair of the train split is left.
    """
    context = parts.config.context

    def encode(row: Row) -> tuple[AnsweredPair] | Problem:
        ids = usable_ids(pair_of(row), tokenizer=parts.tokenizer, context=context)
        if isinstance(ids, str):
            return ids
        return ((_answered(ids["prompt_ids"], ids["chosen_ids"], context), _answered(ids["prompt_ids"], ids["rejected_ids"], context)),)

    return _load(parts, split, encode, what="pair")


def load_rated(parts: Parts, split: Split) -> list[Rated]:
    """Return a split's single answers, good or bad; a preference pair gives one of each. What teaches nothing is left out, as of pairs.

    Raises InvalidInput if no answer of the train split is left, or a whole split has one prompt only, so that no answer is mismatched.
    """
    context = parts.config.context
    found = _load(parts, split, lambda row: _rated_ids(parts, row), what="row")
    order = np.random.default_rng((parts.config.seed, 1)).permutation(len(found))
    numbers: dict[tuple[int, ...], int] = {}
    prompts = np.array([numbers.setdefault(tuple(found[index][0]), len(numbers)) for index in order], dtype=np.int64)
    borders = np.flatnonzero(prompts != np.roll(prompts, -1))  # places of a ring behind which another prompt's answer stands
    if len(found) and not len(borders):
        if split == "val":
            parts.reporter.log("All answers of the val split are to one prompt, so val_loss is not measured.")
            return []
        raise InvalidInput(
            f"All {len(found):,} answers of the {split} split are to one prompt, and kto compares answers with other prompts' answers.",
            remedy="Use more rows, or objective dpo.",
            field="dataset",
        )
    others = order[(borders[np.searchsorted(borders, np.arange(len(found))) % len(borders)] + 1) % len(found)] if len(found) else order
    rated: dict[int, Rated] = {}
    for index, other in zip(order, others, strict=True):
        prompt, answer, desirable = found[index]
        rated[int(index)] = Rated(_answered(prompt, answer, context), desirable, _answered(prompt, found[other][1], context))
    return [rated[index] for index in range(len(found))]


def pair_of(row: Row) -> Pair:
    """Return a preference row as messages."""
    return {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"], "tools": tools_of(row)}


def usable_ids(pair: Pair, *, tokenizer: PreTrainedTokenizerBase, context: int) -> PairIds | Problem:
    """Return the ids of a pair, or why nothing can be learned from it. Raises ConversationRefused."""
    if pair["chosen"] == pair["rejected"]:
        return "same sides"
    ids = encode_pair(pair, tokenizer=tokenizer)
    return "prompt too long" if len(ids["prompt_ids"]) >= context else ids


def encode_pair(pair: Pair, *, tokenizer: PreTrainedTokenizerBase) -> PairIds:
    """Return the ids of a pair. A token that reaches from the prompt into a side counts as the side's, in both sides.

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
    """Return (chosen, rejected) of each pair as they are trained on; None for a pair whose prompt fills the context."""
    sides: list[tuple[EncodedSide, EncodedSide] | None] = []
    for pair in pairs:
        ids = encode_pair(pair, tokenizer=tokenizer)
        prompt = ids["prompt_ids"]
        full = len(prompt) >= context
        sides.append(None if full else (_cut(prompt, ids["chosen_ids"], context), _cut(prompt, ids["rejected_ids"], context)))
    return sides


def encode_rated(row: Row, *, tokenizer: PreTrainedTokenizerBase, context: int) -> EncodedSide | None:
    """Return the answer of a kto row as it is trained on; None for a row whose prompt fills the context. Raises ConversationRefused."""
    prompt, answer = _rated_ids_of(row, tokenizer)
    return None if len(prompt) >= context else _cut(prompt, answer, context)


def _load(parts: Parts, split: Split, encode: Callable[[Row], tuple[Item, ...] | Problem], *, what: str) -> list[Item]:
    """Encode a split's rows, each into some items or a problem; count and log what is left out."""
    kept: list[Item] = []
    left_out: dict[Problem, int] = {"same sides": 0, "prompt too long": 0}
    refused: list[str] = []
    rows = read_rows(parts.dataset, split)
    for row in rows:
        try:
            encoded = encode(row)
        except ConversationRefused as error:
            refused.append(error.message)
            continue
        if isinstance(encoded, str):
            left_out[encoded] += 1
        else:
            kept += encoded
    same, too_long = left_out["same sides"], left_out["prompt too long"]
    if same:
        parts.reporter.log(f"{same:,} of {len(rows):,} {split} {what}s have equal sides and are left out.")
    if too_long:
        parts.reporter.log(f"{too_long:,} of {len(rows):,} {split} {what}s have a prompt that fills the context and are left out.")
    if refused:
        parts.reporter.log(f"{len(refused):,} of {len(rows):,} {split} {what}s are left out. The first: {refused[0]}")
    parts.reporter.event("rows_encoded", split=split, rows=len(rows), zero_label_rows=same + too_long, truncated=0, refused=len(refused))
    if split == "train" and not kept:
        why = f" {len(refused):,} are refused; the first: {refused[0]}" if refused else ""
        raise InvalidInput(f"None of the {len(rows):,} train {what}s can be learned from.{why}", field="dataset")
    return kept


def _rated_ids(parts: Parts, row: Row) -> tuple[tuple[list[int], list[int], bool], ...] | Problem:
    """Return (prompt, answer, desirable) of the answers of a kto row or a preference row."""
    if "label" not in row:
        ids = usable_ids(pair_of(row), tokenizer=parts.tokenizer, context=parts.config.context)
        if isinstance(ids, str):
            return ids
        return (ids["prompt_ids"], ids["chosen_ids"], True), (ids["prompt_ids"], ids["rejected_ids"], False)
    prompt, answer = _rated_ids_of(row, parts.tokenizer)
    return "prompt too long" if len(prompt) >= parts.config.context else ((prompt, answer, bool(row["label"])),)


def _rated_ids_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    return encode_completion(tokenizer, row["prompt"], row["completion"], tools=tools_of(row))


def _answered(prompt: list[int], answer: list[int], context: int) -> Answered:
    return Answered([*prompt, *answer][:context], len(prompt))


def _cut(prompt: list[int], answer: list[int], context: int) -> EncodedSide:
    whole = [*prompt, *answer]
    mask = [False] * len(prompt) + [True] * len(answer)
    return EncodedSide(whole[:context], mask[:context], whole)
