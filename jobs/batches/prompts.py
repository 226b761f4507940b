"""Prompts for a network that learns from its own completions, and the answers that rules compare those with."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import InvalidInput
from jobs.modeling.chat.render import ConversationRefused, encode_prompt
from jobs.modeling.dataset_files import Row, Split, read_rows
from jobs.training.context import Parts


@dataclass(frozen=True)
class Question:
    """A prompt's token ids, after which the network writes, and the answers that count as right: none for a bare prompt."""

    ids: list[int]
    answers: tuple[str, ...]


def load_questions(parts: Parts, split: Split) -> list[Question]:
    """Return a split's questions; those whose prompt leaves no room for a completion or is refused are left out, counted and logged.

    Raises InvalidInput if none of the train split is left.
    """
    config = parts.config
    room = config.context - config.grpo.max_new_tokens
    kept: list[Question] = []
    too_long, refused = 0, []
    rows = read_rows(parts.dataset, split)
    for row in rows:
        prompt, answers = question_of(row)
        try:
            ids = encode_prompt(parts.tokenizer, [{"role": "user", "content": prompt}])
        except ConversationRefused as error:
            refused.append(error.message)
            continue
        if len(ids) > room:
            too_long += 1
        else:
            kept.append(Question(ids, answers))
    if too_long:
        parts.reporter.log(
            f"{too_long:,} of {len(rows):,} {split} prompts leave no room for {config.grpo.max_new_tokens} tokens in a context of "
            f"{config.context} and are left out."
        )
    if refused:
        parts.reporter.log(f"{len(refused):,} of {len(rows):,} {split} prompts are left out. The first: {refused[0]}")
    parts.reporter.event("rows_encoded", split=split, rows=len(rows), zero_label_rows=too_long, truncated=0, refused=len(refused))
    if split == "train" and not kept:
        raise InvalidInput(
            f"None of the {len(rows):,} train prompts leaves room for {config.grpo.max_new_tokens} tokens in a context of {config.context}.",
            remedy="Use a longer context or a smaller grpo.max_new_tokens.",
            field="grpo.max_new_tokens",
        )
    return kept


def question_of(row: Row) -> tuple[str, tuple[str, ...]]:
    """Return the prompt of an instruction, prompts or benchmark row and the answers that count as right."""
    if "question" in row:
        if row.get("answers"):
            return row["question"], tuple(map(str, row["answers"]))
        return row["question"], (str(row["choices"][int(row["answer"])]).strip(),)
    return row["prompt"], (row["completion"],) if "completion" in row else ()
