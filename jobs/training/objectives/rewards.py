"""Verifiable rewards: rules that a completion keeps or breaks, whoever wrote it. No rule runs code, and none takes long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import regex

from backend.domain.training.config_sections import RewardRule

PATTERN_S = 0.1
"""The longest that a pattern may search a completion: some take ages on texts that they nearly match."""


class Rewards:
    """The rules of a run. `say` is told, once a rule, of a pattern that took too long."""

    def __init__(self, rules: Sequence[RewardRule], *, say: Callable[[str], None] = lambda _: None) -> None:
        self._rules = [(rule, regex.compile(rule.pattern) if rule.kind == "regex" else None) for rule in rules]
        self._say, self._slow = say, set[str]()

    def of(self, completion: str, *, tokens: int, answers: Sequence[str]) -> float:
        """Return the weighted sum of the rules' rewards of a completion of so many tokens; `answers` are those that count as right."""
        return sum(rule.weight * self._reward(rule, pattern, completion, tokens, answers) for rule, pattern in self._rules)

    def _reward(self, rule: RewardRule, pattern: regex.Pattern[str] | None, completion: str, tokens: int, answers: Sequence[str]) -> float:
        if rule.kind == "length":
            return max(0.0, 1.0 - abs(tokens - rule.target) / rule.target)
        if pattern is not None:
            return float(self._is_found(pattern, completion))
        said, right = completion.strip().casefold(), [answer.strip().casefold() for answer in answers]
        return float(said in right if rule.kind == "exact" else any(answer in said for answer in right if answer))

    def _is_found(self, pattern: regex.Pattern[str], completion: str) -> bool:
        try:
            return pattern.search(completion, timeout=PATTERN_S) is not None
        except TimeoutError:
            if pattern.pattern not in self._slow:
                self._slow.add(pattern.pattern)
                self._say(
                    f"The pattern {pattern.pattern!r} searched a completion for {PATTERN_S:g} s in vain, which counts as not found. "
                    "Alternatives that overlap inside a repetition, such as (a|aa)+, make a pattern slow."
                )
            return False
