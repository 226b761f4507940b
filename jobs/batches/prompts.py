"""Encode prompts for objectives that train on sampled completions, with the reference answers of reward rules."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.splits import Split
from backend.domain.jobs.events import RowsEncodedEvent
from backend.domain.json_values import Row
from backend.domain.training.rewards import read_question
from backend.errors import InvalidInput
from jobs.batches.token_files import RowTokens, TokenItem
from jobs.batches.token_making import TokenForm, TokenSource
from jobs.modeling.chat import ConversationRefused, encode_prompt


@dataclass(frozen=True)
class PromptExample:
    """A prompt's token ids and accepted answers; none for a prompt without answers."""

    ids: list[int]
    answers: tuple[str, ...]


def _prompt_tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[RowTokens]:
    encoded = []
    for row in rows:
        prompt, answers = read_question(row)
        try:
            ids = encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
            encoded.append(RowTokens((TokenItem((ids, list(json.dumps(answers).encode()))),)))
        except ConversationRefused as error:
            encoded.append(RowTokens(refusal=error.message))
    return encoded


PROMPTS = TokenForm("prompts", segments=2, encode=_prompt_tokens)
"""Prompts, and as a second segment the bytes of their accepted answers as JSON."""


def load_questions(source: TokenSource, split: Split, *, context: int, max_new_tokens: int) -> list[PromptExample]:
    """Return a split's prompts; ones that leave no room for `max_new_tokens` or are refused are left out, counted and
    logged.

    Raises InvalidInput if no prompt of the train split is left.
    """
    tokens = source.open(PROMPTS, split)
    if tokens is None:
        source.reporter.emit(RowsEncodedEvent(split=split, rows=0, zero_label_rows=0, truncated=0, refused=0))
        return []
    counts, reporter = tokens.manifest.counts, source.reporter
    num_rows, refused = counts["rows"], counts["refused"]
    fits = np.flatnonzero(tokens.lengths()[:, 0] <= context - max_new_tokens)
    too_long = tokens.num_items - len(fits)
    if too_long:
        reporter.log(
            f"{too_long:,} of {num_rows:,} {split} prompts leave no room for {max_new_tokens} tokens in a context of "
            f"{context} and are left out."
        )
    if refused:
        reporter.log(f"{refused:,} of {num_rows:,} {split} prompts are left out. The first: {counts['refusal']}")
    reporter.emit(RowsEncodedEvent(split=split, rows=num_rows, zero_label_rows=too_long, truncated=0, refused=refused))
    if split == "train" and not len(fits):
        raise InvalidInput(
            f"None of the {num_rows:,} train prompts leaves room for {max_new_tokens} tokens in a context of"
            f" {context}.",
            remedy="Use a longer context or a smaller grpo.max_new_tokens.",
            field="grpo.max_new_tokens",
        )
    order = fits[np.argsort(np.asarray(tokens.rows)[fits], kind="stable")]  # in the order of the dataset
    read = (tokens.segments_of(item) for item in order.tolist())
    return [PromptExample(ids, tuple(json.loads(bytes(answers)))) for ids, answers in read]
