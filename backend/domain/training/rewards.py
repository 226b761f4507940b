"""Verifiable rewards: rules on the text of a completion. No rule runs code, and each has a time limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from backend.domain.training.config_sections import RewardRule

PATTERN_S = 0.1
"""Time limit of a pattern's search in a completion: backtracking can take exponential time."""


SAME_REWARDS = (
    "All completions of each prompt got the same reward in every step, so no gradient reached the weights: nothing was"
    " learned."
)


class Rewards:
    """The reward rules of a run. `log` receives one line for each pattern that timed out."""

    def __init__(self, rules: Sequence[RewardRule], *, log: Callable[[str], None] = lambda _: None) -> None:
        self._rules = [(rule, regex.compile(rule.pattern) if rule.kind == "regex" else None) for rule in rules]
        self._log, self._slow = log, set[str]()

    def of(self, completion: str, *, tokens: int, answers: Sequence[str]) -> float:
        """Return the weighted sum of the rules' rewards of a completion of `tokens`; `answers` are the correct ones."""
        return sum(self.by_rule(completion, tokens=tokens, answers=answers))

    def by_rule(self, completion: str, *, tokens: int, answers: Sequence[str]) -> list[float]:
        """Return the weighted reward of each rule."""
        return [rule.weight * self._reward(rule, pattern, completion, tokens, answers) for rule, pattern in self._rules]

    def _reward(
        self, rule: RewardRule, pattern: regex.Pattern[str] | None, completion: str, tokens: int, answers: Sequence[str]
    ) -> float:
        if rule.kind == "length":
            return max(0.0, 1.0 - abs(tokens - rule.target) / rule.target)
        if pattern is not None:
            return float(self._matches(pattern, completion))
        text, correct = completion.strip().casefold(), [answer.strip().casefold() for answer in answers]
        return float(text in correct if rule.kind == "exact" else any(answer in text for answer in correct if answer))

    def _matches(self, pattern: regex.Pattern[str], completion: str) -> bool:
        try:
            return pattern.search(completion, timeout=PATTERN_S) is not None
        except TimeoutError:
            if pattern.pattern not in self._slow:
                self._slow.add(pattern.pattern)
                self._log(
                    f"The pattern {pattern.pattern!r} timed out on a completion after {PATTERN_S:g} s, which counts as"
                    " no match. Overlapping alternatives inside a repetition, such as (a|aa)+, make a pattern slow."
                )
            return False


def read_question(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the prompt of an instruction, prompts or benchmark row, and its accepted answers."""
    if "question" in row:
        if row.get("answers"):
            return row["question"], tuple(map(str, row["answers"]))
        return row["question"], (str(row["choices"][int(row["answer"])]).strip(),)
    return row["prompt"], (row["completion"],) if "completion" in row else ()
