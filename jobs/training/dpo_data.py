"""Preference data as TRL's DPO trainer reads it: which pairs are kept, and the ids and masks that it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import datasets
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from jobs.modeling.chat import encode_prompt
from jobs.modeling.dataset_files import Split
from jobs.training.networks import padding_id
from jobs.training.parts import Parts
from jobs.training.rows import Row, read_rows

Pair = dict[str, list[dict[str, str]]]
Problem = Literal["same sides", "prompt too long"]
TRUNCATION: Literal["keep_start"] = "keep_start"


@dataclass(frozen=True)
class EncodedSide:
    """A prompt with one of its answers, cut to the context. `mask` marks what is trained on; `whole` holds the ids before the cut."""

    ids: list[int]
    mask: list[bool]
    whole: list[int]


def load_preferences(parts: Parts, split: Split) -> list[dict[str, Any]]:
    """Return a split's pairs as TRL reads them; pairs that teach nothing are left out, counted and logged."""
    kept: list[dict[str, Any]] = []
    left_out: dict[Problem, int] = {"same sides": 0, "prompt too long": 0}
    rows = read_rows(parts.dataset, split)
    for row in rows:
        pair = pair_of(row)
        problem = problem_of(pair, tokenizer=parts.tokenizer, context=parts.config.context)
        if problem is None:
            kept.append(pair)
        else:
            left_out[problem] += 1
    same, too_long = left_out["same sides"], left_out["prompt too long"]
    if same:
        parts.reporter.log(f"{same:,} of {len(rows):,} {split} pairs have equal sides and are left out.")
    if too_long:
        parts.reporter.log(f"{too_long:,} of {len(rows):,} {split} pairs have a prompt that fills the context and are left out.")
    parts.reporter.event("rows_encoded", split=split, rows=len(rows), zero_label_rows=same + too_long, truncated=0)
    limit = parts.config.eval_batches * parts.config.micro_batch
    return kept if split == "train" else kept[:limit]


def pair_of(row: Row) -> Pair:
    """Return a preference row as messages of plain text."""
    return {key: _messages(row[key]) for key in ("prompt", "chosen", "rejected")}


def problem_of(pair: Pair, *, tokenizer: PreTrainedTokenizerBase, context: int) -> Problem | None:
    """Return why nothing can be learned from a pair; None if something can."""
    if pair["chosen"] == pair["rejected"]:
        return "same sides"
    return "prompt too long" if len(encode_prompt(tokenizer, pair["prompt"])) >= context else None


def encode_pairs(
    pairs: Sequence[Pair], *, tokenizer: PreTrainedTokenizerBase, context: int
) -> list[tuple[EncodedSide, EncodedSide] | None]:
    """Return (chosen, rejected) of each pair as TRL's own code tokenises, masks and cuts them; None for a pair that it drops."""
    if not pairs:
        return []
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_list([{**pair, "place": place} for place, pair in enumerate(pairs)])
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=context, truncation_mode=TRUNCATION)
    prepared = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), table, tokenizer, arguments, "pairs")
    collate = DataCollatorForPreference(pad_token_id=padding_id(tokenizer), max_length=context, truncation_mode=TRUNCATION)
    sides: list[tuple[EncodedSide, EncodedSide] | None] = [None] * len(pairs)
    for example in prepared:
        batch = collate([example])
        sides[example["place"]] = (_side(batch, 0, example, "chosen_ids"), _side(batch, 1, example, "rejected_ids"))
    return sides


def _side(batch: dict[str, Any], place: int, example: dict[str, Any], answer: str) -> EncodedSide:
    length = int(batch["attention_mask"][place].sum())
    return EncodedSide(
        ids=batch["input_ids"][place][:length].tolist(),
        mask=batch["completion_mask"][place][:length].bool().tolist(),
        whole=[*example["prompt_ids"], *example[answer]],
    )


def _messages(value: Any) -> list[dict[str, str]]:
    return [{"role": str(message["role"]), "content": str(message["content"] or "")} for message in value]
