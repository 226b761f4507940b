"""Encode prompts for objectives that train on sampled completions, with the reference answers of reward rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from backend.domain.jobs.events import RowsEncodedEvent
from backend.errors import InvalidInput
from jobs.modeling.chat.render import ConversationRefused, encode_prompt
from jobs.modeling.dataset_files import Row, Split, read_rows
from jobs.reporter import Reporter


@dataclass(frozen=True)
class Question:
    """A prompt's token ids and accepted answers; none for a prompt without answers."""

    ids: list[int]
    answers: tuple[str, ...]


def load_questions(
    dataset: Path, split: Split, *, tokenizer: PreTrainedTokenizerBase, context: int, max_new_tokens: int, reporter: Reporter
) -> list[Question]:
    """Encode a split's prompts; ones that leave no room for `max_new_tokens` or are refused are left out, counted and logged.

    Raises InvalidInput if no prompt of the train split is left.
    """
    questions: list[Question] = []
    too_long = 0
    refused: list[str] = []
    rows = read_rows(dataset, split)
    for row in rows:
        prompt, answers = question_of(row)
        try:
            ids = encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
        except ConversationRefused as error:
            refused.append(error.message)
            continue
        if len(ids) > context - max_new_tokens:
            too_long += 1
        else:
            questions.append(Question(ids, answers))
    if too_long:
        reporter.log(
            f"{too_long:,} of {len(rows):,} {split} prompts leave no room for {max_new_tokens} tokens in a context of "
            f"{context} and are left out."
        )
    if refused:
        reporter.log(f"{len(refused):,} of {len(rows):,} {split} prompts are left out. The first: {refused[0]}")
    reporter.emit(RowsEncodedEvent(split=split, rows=len(rows), zero_label_rows=too_long, truncated=0, refused=len(refused)))
    if split == "train" and not questions:
        raise InvalidInput(
            f"None of the {len(rows):,} train prompts leaves room for {max_new_tokens} tokens in a context of {context}.",
            remedy="Use a longer context or a smaller grpo.max_new_tokens.",
            field="grpo.max_new_tokens",
        )
    return questions


def question_of(row: Row) -> tuple[str, tuple[str, ...]]:
    """Return the prompt of an instruction, prompts or benchmark row, and its accepted answers."""
    if "question" in row:
        if row.get("answers"):
            return row["question"], tuple(map(str, row["answers"]))
        return row["question"], (str(row["choices"][int(row["answer"])]).strip(),)
    return row["prompt"], (row["completion"],) if "completion" in row else ()
