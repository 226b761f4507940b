"""Resolve votes to preference pairs: chosen and rejected answer, raters, and agreement. Pure rules, no I/O."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backend.domain.battles.preferences.rules import PreferenceRules


class LeftOut(StrEnum):
    """Why a pair of answers gives no preference."""

    LOCKED = "the prompt is locked for the rematch"
    CATEGORY = "another category"
    IDENTICAL = "equal answers"
    BOTH_BAD = "a rater called both bad"
    FEW_RATERS = "too few raters"
    NO_PREFERENCE = "no vote prefers an answer"
    SPLIT = "raters split evenly"
    DISAGREEMENT = "too little agreement"
    PER_PROMPT = "more pairs than a prompt may have"


@dataclass(frozen=True, slots=True)
class CastVote:
    """A valid vote on two answers. `label` is A (prefers the first of `answers`), B, TIE or BOTH_BAD."""

    vote: str
    rater: str
    prompt: str
    answers: tuple[str, str]
    label: str

    @property
    def winner(self) -> str | None:
        """The preferred answer, or None."""
        return {"A": self.answers[0], "B": self.answers[1]}.get(self.label)


@dataclass(frozen=True, slots=True)
class Preference:
    """One resolved pair. `agreement` is the share of the counted votes that prefer the chosen answer."""

    prompt: str
    chosen: str
    rejected: str
    votes: tuple[str, ...]
    num_raters: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Resolution:
    """Preferences, and the number of pairs left out for each reason."""

    preferences: tuple[Preference, ...]
    left_out: Mapping[LeftOut, int] = field(default_factory=dict)

    @property
    def agreement(self) -> float | None:
        """Mean agreement over the preferences that several raters voted on; None if there are none."""
        rows = self.shared
        return sum(row.agreement for row in rows) / len(rows) if rows else None

    @property
    def shared(self) -> list[Preference]:
        """Preferences that several raters voted on."""
        return [row for row in self.preferences if row.num_raters > 1]


@dataclass(frozen=True, slots=True)
class Answers:
    """Texts and categories that rules look at: `category` by prompt, `text` by answer (outer whitespace removed)."""

    category: Mapping[str, str] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)


def resolve_preferences(
    votes: Iterable[CastVote],
    rules: PreferenceRules | None = None,
    *,
    answers: Answers | None = None,
    locked: Collection[str] = (),
) -> Resolution:
    """Return the preference on each prompt and pair of answers whose votes agree enough.

    Ties and both-bad votes count against a preference by default: one vote for an answer and five for both bad have an
    agreement of 1/6. A rater's newest vote on a pair counts; `votes` come oldest first.
    """
    rules, answers = rules or PreferenceRules(), answers or Answers()
    newest: dict[tuple[str, tuple[str, ...]], dict[str, CastVote]] = defaultdict(dict)
    for vote in votes:
        newest[vote.prompt, tuple(sorted(vote.answers))][vote.rater] = vote
    preferences: list[Preference] = []
    left_out: Counter[LeftOut] = Counter()
    for (prompt, pair), by_rater in newest.items():
        if prompt in locked:
            left_out[LeftOut.LOCKED] += 1
            continue
        if rules.categories and answers.category.get(prompt, "") not in rules.categories:
            left_out[LeftOut.CATEGORY] += 1
            continue
        first, second = (answers.text.get(answer, answer) for answer in pair)
        outcome = LeftOut.IDENTICAL if first == second else _resolve_pair(prompt, pair, list(by_rater.values()), rules)
        if isinstance(outcome, Preference):
            preferences.append(outcome)
        else:
            left_out[outcome] += 1
    chosen = _limit(preferences, rules.max_pairs_per_prompt)
    if len(chosen) < len(preferences):
        left_out[LeftOut.PER_PROMPT] = len(preferences) - len(chosen)
    return Resolution(tuple(chosen), dict(left_out))


def _resolve_pair(
    prompt: str, pair: tuple[str, ...], cast: list[CastVote], rules: PreferenceRules
) -> Preference | LeftOut:
    labels = Counter(vote.label for vote in cast)
    if rules.both_bad == "exclude" and labels["BOTH_BAD"]:
        return LeftOut.BOTH_BAD
    if len(cast) < rules.min_raters:
        return LeftOut.FEW_RATERS
    ignored = {label for label, rule in (("TIE", rules.ties), ("BOTH_BAD", rules.both_bad)) if rule == "ignore"}
    counted = [vote for vote in cast if vote.label not in ignored]
    wins = Counter(vote.winner for vote in counted if vote.winner is not None)
    if not wins:
        return LeftOut.NO_PREFERENCE
    chosen = max(pair, key=lambda answer: wins[answer])
    rejected = pair[1] if chosen == pair[0] else pair[0]
    if wins[chosen] == wins[rejected]:
        return LeftOut.SPLIT
    agreement = wins[chosen] / len(counted)
    if agreement <= 0.5 or agreement < rules.min_agreement:
        return LeftOut.DISAGREEMENT
    return Preference(prompt, chosen, rejected, tuple(vote.vote for vote in counted), len(counted), agreement)


def _limit(preferences: list[Preference], limit: int | None) -> list[Preference]:
    """Keep the pairs of each prompt with the most agreement, then the most raters; the order stays."""
    if limit is None:
        return preferences
    ranked = sorted(preferences, key=lambda pair: (-pair.agreement, -pair.num_raters, pair.chosen, pair.rejected))
    taken: Counter[str] = Counter()
    within = set()
    for pair in ranked:
        taken[pair.prompt] += 1
        if taken[pair.prompt] <= limit:
            within.add((pair.chosen, pair.rejected))
    return [pair for pair in preferences if (pair.chosen, pair.rejected) in within]


def choose_locked(
    prompts: Mapping[str, str], rules: PreferenceRules, *, lacking: int = 0, already: Collection[str] = ()
) -> frozenset[str]:
    """Return the prompts that no run trains on: `already` locked, those that the rules name, and a share of the rest.

    `prompts` maps ids to content hashes; equal prompts are locked together. Without `locked_share` as many are locked
    as the rematch is `lacking`, at most half. The choice depends only on seed and content, so more votes do not change
    it.
    """
    named = {prompts[prompt] for prompt in {*rules.locked_prompts, *already} & set(prompts)}
    free = sorted(
        set(prompts.values()) - named, key=lambda content: hashlib.sha256(f"{rules.seed}:{content}".encode()).digest()
    )
    if rules.locked_share is None:
        num = min(max(0, lacking - len(named)), len(free) // 2)
    else:
        num = max(0, math.ceil(rules.locked_share * len(set(prompts.values())) - 1e-9) - len(named))
    locked = named | set(free[:num])
    return frozenset(prompt for prompt, content in prompts.items() if content in locked)
