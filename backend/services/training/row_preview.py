"""Show rows of a dataset before a launch: what the network reads, what it is trained on, and what rewards give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.data.rows.conversations import as_conversation
from backend.domain.json_values import Row
from backend.domain.training.config_sections import RewardRule
from backend.domain.training.objectives import Objective
from backend.domain.training.rewards import Rewards, read_question
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.row_pages import read_version_rows
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens

NUM_ROWS = 3
NUM_TRIED = 6


@dataclass(frozen=True)
class RowPart:
    """A part of a row. `is_trained`: its tokens have a loss."""

    title: str
    text: str
    is_trained: bool = False


@dataclass(frozen=True)
class Tried:
    """A completion of a row's prompt with the weighted reward of each rule."""

    prompt: str
    completion: str
    is_accepted: bool
    tokens: int
    scores: tuple[float, ...]

    @property
    def total(self) -> float:
        """The reward that the run would give."""
        return sum(self.scores)


@dataclass(frozen=True)
class RewardTrial:
    """Rewards of completions. `problems` say why these rules would not teach, or are slow."""

    rows: tuple[Tried, ...]
    problems: tuple[str, ...]
    counts_words: bool


def preview_training_rows(ctx: Context, dataset: str, objective: Objective) -> list[list[RowPart]]:
    """Return the first train rows as the objective reads them. Raises NotFound for an unknown dataset."""
    return [list(_parts(row, objective)) for row in _first_rows(ctx, dataset, NUM_ROWS)]


def try_rewards(
    ctx: Context,
    rules: Sequence[RewardRule],
    *,
    dataset: str,
    base: str | None,
    max_new_tokens: int | None = None,
    own: str = "",
) -> RewardTrial:
    """Give the first train rows' prompts the accepted answer, the answer inside a sentence, nothing, and `own`, and
    reward them. `max_new_tokens` is the length of the run's longest completion; None: not compared.

    Raises NotFound for an unknown dataset.
    """
    problems: list[str] = []
    rewards = Rewards(rules, log=problems.append)
    completions: list[tuple[str, str, tuple[str, ...]]] = []
    for row in _first_rows(ctx, dataset, NUM_TRIED):
        prompt, answers = read_question(row)
        texts = [*([answers[0], f"The answer is {answers[0]}."] if answers else []), "", *([own] if own else [])]
        completions += [(prompt, text, answers) for text in dict.fromkeys(texts)]
    counts, counts_words = _count(ctx, [text for _, text, _ in completions], base)
    tried = tuple(
        Tried(prompt, text, text in answers, tokens, tuple(rewards.by_rule(text, tokens=tokens, answers=answers)))
        for (prompt, text, answers), tokens in zip(completions, counts, strict=True)
    )
    if tried and len({round(one.total, 9) for one in tried}) == 1:
        problems.append(
            f"Every completion here gets {tried[0].total:g}: equal rewards give no gradient. Change the rules,"
            " or try a completion that should score."
        )
    right = [one.total for one in tried if one.is_accepted]
    empty = [one.total for one in tried if not one.completion]
    if right and empty and max(right) < max(empty):
        problems.append("No completion at all gets more than the accepted answer.")
    if max_new_tokens is not None:
        lengths = [] if counts_words else [one.tokens for one in tried if one.is_accepted]
        problems += _beyond(max_new_tokens, rules, lengths)
    return RewardTrial(tried, tuple(problems), counts_words)


def _beyond(longest: int, rules: Sequence[RewardRule], answers: Sequence[int]) -> Iterator[str]:
    """Yield what a completion of `longest` tokens can't reach: the target of a length, an accepted answer (`answers`
    holds their tokens).
    """
    for target in [rule.target for rule in rules if rule.kind == "length" and rule.target > longest]:
        yield f"A length reward has a target of {target:,} tokens, and completions end at {longest:,} (Max new tokens)."
    if max(answers, default=0) > longest:
        yield (
            f"An accepted answer has {max(answers):,} tokens, and completions end at {longest:,} (Max new tokens):"
            " none can equal it."
        )


def _count(ctx: Context, texts: Sequence[str], base: str | None) -> tuple[list[int], bool]:
    """Return (tokens of each text by the base's tokenizer, whether words were counted instead)."""
    try:
        if base:
            return count_tokens(ctx, resolve_source(ctx, f"checkpoint:{base}"), list(texts)), False
    except RoundhouseError:
        pass
    return [len(text.split()) for text in texts], True


def _first_rows(ctx: Context, dataset: str, number: int) -> list[Row]:
    version = resolve_version(ctx, dataset, ready=False)
    if version.folder is None:
        return []
    try:
        return read_version_rows(ctx, version.folder, split="train", limit=number)
    except OSError:
        return []


def _parts(row: Mapping[str, Any], objective: Objective) -> Iterator[RowPart]:
    if objective.pretrains:
        yield RowPart("Text", str(row.get("text", "")), True)
    elif objective.samples:
        prompt, answers = read_question(row)
        yield RowPart("Prompt", prompt)
        yield RowPart("Accepted answers" if len(answers) > 1 else "Accepted answer", "\n".join(answers))
    elif objective.learns_preferences:
        yield from _messages(row.get("prompt"), objective=None)
        for side in ("chosen", "rejected", "completion"):
            if side in row:
                label = "" if "label" not in row else ", rated good" if row["label"] else ", rated bad"
                text = "\n\n".join(part.text for part in _messages(row[side], objective=None))
                yield RowPart(f"{side.capitalize()}{label}", text, True)
    else:
        conversation = as_conversation(dict(row))
        yield from _messages(conversation.messages if conversation else [], objective=objective)


def _messages(messages: Any, *, objective: Objective | None) -> Iterator[RowPart]:
    for message in messages if isinstance(messages, list) else []:
        role = re.sub(r"\W", " ", str(message.get("role", ""))).capitalize()
        content = message.get("content")
        text = content if isinstance(content, str) else "" if content is None else str(content)
        if message.get("tool_calls"):
            text = f"{text}\n{message['tool_calls']}".strip()
        yield RowPart(role, text, objective is not None and message.get("role") == "assistant")
