"""Preference data for the DPO trainer: which pairs are kept, and the ids and masks that are made of them.

TRL is handed token ids: rendering a conversation is `jobs.modeling.chat`'s alone, so a pair means here what it means everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from transformers import PreTrainedTokenizerBase

from backend.domain.tool_calls import tools_of
from jobs.modeling.chat import ConversationRefused, Message, Tools, encode_completion
from jobs.modeling.dataset_files import Split
from jobs.training.parts import Parts
from jobs.training.rows import Row, read_rows

Problem = Literal["same sides", "prompt too long"]
TRUNCATION: Literal["keep_start"] = "keep_start"


class Pair(TypedDict):
    """A prompt and two ways to go on, as messages; `tools` may be called in both."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: Tools


class PairIds(TypedDict):
    """What TRL's collator reads: the ids of the prompt and, behind it, of either side."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class EncodedSide:
    """A prompt with one of its answers, cut to the context. `mask` marks what is trained on; `whole` holds the ids before the cut."""

    ids: list[int]
    mask: list[bool]
    whole: list[int]


def load_preferences(parts: Parts, split: Split) -> list[PairIds]:
    """Return a split's pairs as ids; pairs that teach nothing or are refused are left out, counted and logged."""
    kept: list[PairIds] = []
    left_out: dict[Problem, int] = {"same sides": 0, "prompt too long": 0}
    refused: list[str] = []
    rows = read_rows(parts.dataset, split)
    for row in rows:
        pair = pair_of(row)
        try:
            problem = problem_of(pair, tokenizer=parts.tokenizer, context=parts.config.context)
            ids = encode_pair(pair, tokenizer=parts.tokenizer)
        except ConversationRefused as error:
            refused.append(error.message)
            continue
        if problem is None:
            kept.append(ids)
        else:
            left_out[problem] += 1
    same, too_long = left_out["same sides"], left_out["prompt too long"]
    if same:
        parts.reporter.log(f"{same:,} of {len(rows):,} {split} pairs have equal sides and are left out.")
    if too_long:
        parts.reporter.log(f"{too_long:,} of {len(rows):,} {split} pairs have a prompt that fills the context and are left out.")
    if refused:
        parts.reporter.log(f"{len(refused):,} of {len(rows):,} {split} pairs are left out. The first: {refused[0]}")
    parts.reporter.event("rows_encoded", split=split, rows=len(rows), zero_label_rows=same + too_long, truncated=0, refused=len(refused))
    limit = parts.config.eval_batches * parts.config.micro_batch
    return kept if split == "train" else kept[:limit]


def pair_of(row: Row) -> Pair:
    """Return a preference row as messages."""
    return {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"], "tools": tools_of(row)}


def problem_of(pair: Pair, *, tokenizer: PreTrainedTokenizerBase, context: int) -> Problem | None:
    """Return why nothing can be learned from a pair; None if something can. Raises ConversationRefused."""
    if pair["chosen"] == pair["rejected"]:
        return "same sides"
    return "prompt too long" if len(encode_pair(pair, tokenizer=tokenizer)["prompt_ids"]) >= context else None


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


def _cut(prompt: list[int], answer: list[int], context: int) -> EncodedSide:
    whole = [*prompt, *answer]
    mask = [False] * len(prompt) + [True] * len(answer)
    return EncodedSide(whole[:context], mask[:context], whole)
