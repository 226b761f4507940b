"""Encode preference pairs and rated answers from rows to token ids, with the reason for each row left out.

Conversations are rendered by `jobs.modeling.chat` alone, so training, reports and previews see the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.tool_calls import tools_of
from backend.domain.data.splits import Split
from backend.domain.jobs.events import RowsEncodedEvent
from backend.domain.json_values import Row
from backend.errors import InvalidInput
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
