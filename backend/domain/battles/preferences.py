"""Resolve votes to training rows by rules (YAML): preference pairs, answers by raters (chat), and answers labelled good
or bad (kto), with warnings before anything trains on them. Pure rules, no I/O.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from backend.domain.battles.campaign import Messages
from backend.domain.fields import setting
from backend.domain.json_values import Row
from backend.domain.statistics.estimates import Estimate, clustered_mean_estimate, mean_estimate
from backend.domain.validation import read_values
from backend.domain.wording import percent, plural
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput


class PreferenceRules(BaseModel):
    """The rules by which votes of a campaign become preference pairs. By default 60 % of its raters agree on each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_agreement: float = setting(
        0.6,
        "Smallest agreement",
        "Smallest share of a pair's votes that prefer the chosen answer; half is never enough.",
        ge=0.5,
        le=1.0,
        step=0.05,
    )
    min_raters: int = setting(1, "Raters per pair", "Raters that must have judged a pair (overlap).", ge=1, le=100)
    max_pairs_per_prompt: int | None = setting(
        None, "Max pairs per prompt", "Pairs with the most agreement are kept.", ge=1, empty="All"
    )
    ties: Literal["against", "ignore"] = setting(
        "against",
        "Ties",
        "Whether a tie counts in the share, as a vote for neither.",
        choices={"against": "Counts against a preference", "ignore": "Not counted"},
    )
    both_bad: Literal["against", "exclude", "ignore"] = setting(
        "against",
        "Both bad",
        "against: counts in the share, as a vote for neither. exclude: one such vote leaves the pair out. ignore: not"
        " counted.",
        choices={
            "against": "Counts against a preference",
            "exclude": "Leaves the pair out",
            "ignore": "Not counted",
        },
    )
    locked_share: float | None = setting(
        None,
        "Locked share of prompts",
        "Share of the prompts that no run trains on, so that a rematch can use them. Empty: as many as the dataset"
        " lacks.",
        ge=0.0,
        le=0.9,
        step=0.05,
        empty="As many as are lacking",
    )
    categories: tuple[str, ...] = setting((), "Categories", "Only prompts of these categories.", empty="All categories")
    locked_prompts: tuple[str, ...] = Field(default=(), description="Ids of prompts that no run trains on.")
    seed: int = Field(default=1, ge=0, description="Decides which prompts are locked.")

    def to_yaml(self) -> str:
        """Return the rules as YAML, leaving defaults out."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""


def parse_rules(text: str) -> PreferenceRules:
    """Read rules from YAML; an empty text gives the default. Raises InvalidInput with the line or field at fault."""
    data = parse_yaml(text, what="The rules") if text.strip() else {}
    if not isinstance(data, dict):
        raise InvalidInput(
            "The rules must be a mapping of fields to values, such as `min_agreement: 0.7`.", field="rules"
        )
    return make_rules(data)


def make_rules(values: dict[str, object]) -> PreferenceRules:
    """Return rules from a form's values. Raises InvalidInput naming field, value and bound."""
    return read_values(PreferenceRules, values, intro="These rules can't be used: ")


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


GOOD_RATING, BAD_RATING = 3.5, 2.5
"""Mean ratings from and to which an answer is good or bad; those between say nothing."""


def preference_row(prompt: Messages, *, chosen: str, rejected: str) -> Row:
    """Return a row of kind `preference`."""
    return {"prompt": prompt, "chosen": _answer(chosen), "rejected": _answer(rejected)}


def rewrite_row(prompt: Messages, *, rewrite: str) -> Row:
    """Return a row of kind `chat` that ends with a rater's better answer."""
    return {"messages": [*prompt, *_answer(rewrite)]}


def label_row(prompt: Messages, *, completion: str, is_good: bool) -> Row:
    """Return a row of kind `kto`."""
    return {"prompt": prompt, "completion": _answer(completion), "label": is_good}


def label_answers(ratings: Mapping[str, Sequence[int]], votes: Iterable[CastVote]) -> dict[str, bool]:
    """Return which answers are good or bad: by their mean rating (1 to 5), else bad where most votes on a pair call
    both bad.

    An answer with a rating between good and bad has no label, whatever the votes say.
    """
    labels = {}
    for answer, values in ratings.items():
        mean = sum(values) / len(values)
        if mean >= GOOD_RATING or mean <= BAD_RATING:
            labels[answer] = mean >= GOOD_RATING
    cast: dict[tuple[str, ...], list[CastVote]] = defaultdict(list)
    for vote in votes:
        cast[tuple(sorted(vote.answers))].append(vote)
    for pair, on_pair in cast.items():
        if 2 * sum(vote.label == "BOTH_BAD" for vote in on_pair) > len(on_pair):
            for answer in pair:
                if answer not in ratings:
                    labels.setdefault(answer, False)
    return labels


def _answer(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]


FEW_PAIRS = 100
"""With fewer a network sees each pair many times or learns next to nothing: published sets start at thousands."""
SAME_LENGTH_TOKENS = 1.0
LARGE_IMBALANCE = 4
LOW_AGREEMENT = 0.7


@dataclass(frozen=True, slots=True)
class PairFacts:
    """Lengths in tokens of a pair's answers, its prompt and category, and the raters' agreement."""

    prompt: str
    chosen_tokens: int
    rejected_tokens: int
    agreement: float
    category: str = ""


@dataclass(frozen=True, slots=True)
class SetWarning:
    """One warning: what it is about, and a sentence with its numbers and the cure."""

    kind: str
    text: str


def length_difference(pairs: Sequence[PairFacts]) -> Estimate | None:
    """Return the mean of chosen minus rejected length in tokens, with a 95 % interval by prompt; None without pairs."""
    if not pairs:
        return None
    gaps = [float(pair.chosen_tokens - pair.rejected_tokens) for pair in pairs]
    prompts = [pair.prompt for pair in pairs]
    return mean_estimate(gaps) if len(set(prompts)) == len(prompts) else clustered_mean_estimate(gaps, prompts)


def preference_warnings(pairs: Sequence[PairFacts]) -> tuple[SetWarning, ...]:
    """Return what may spoil a run on these pairs, the gravest first."""
    if not pairs:
        return ()
    checks = (_size(pairs), _length(pairs), _categories(pairs), _agreement(pairs))
    return tuple(warning for warning in checks if warning is not None)


def _size(pairs: Sequence[PairFacts]) -> SetWarning | None:
    if len(pairs) >= FEW_PAIRS:
        return None
    return SetWarning(
        "size",
        f"{plural(len(pairs), 'pair')}, fewer than {FEW_PAIRS}: each is trained on several times, so the training loss"
        " shows overfitting. Only the rematch shows whether the model improved.",
    )


def _length(pairs: Sequence[PairFacts]) -> SetWarning | None:
    gap = length_difference(pairs)
    if (
        gap is None
        or gap.low is None
        or gap.high is None
        or gap.low <= 0 <= gap.high
        or abs(gap.value) < SAME_LENGTH_TOKENS
    ):
        return None
    word, effect = ("longer", "writing more") if gap.value > 0 else ("shorter", "writing less")
    return SetWarning(
        "length",
        f"Chosen answers are {abs(gap.value):.1f} tokens {word} than rejected ones on average (95 % interval"
        f" {gap.low:+.1f} to {gap.high:+.1f}): the model may learn {effect} instead of writing better.",
    )


def _categories(pairs: Sequence[PairFacts]) -> SetWarning | None:
    counts = Counter(pair.category for pair in pairs)
    if len(counts) < 2:
        return None
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    if largest < LARGE_IMBALANCE * smallest:
        return None
    return SetWarning(
        "categories",
        f"“{most or 'no category'}” has {plural(largest, 'pair')} and “{least or 'no category'}” {smallest}: collect"
        " votes on the rarer category, or limit the set to one.",
    )


def _agreement(pairs: Sequence[PairFacts]) -> SetWarning | None:
    mean = sum(pair.agreement for pair in pairs) / len(pairs)
    if mean >= LOW_AGREEMENT:
        return None
    return SetWarning(
        "agreement",
        f"Raters agree on a pair by {percent(mean)} on average: raise the smallest agreement, or set"
        " preference.label_smoothing.",
    )
