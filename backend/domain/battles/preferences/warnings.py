"""Warnings about a preference set before anything trains on it: size, length, categories, agreement. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.statistics.estimates import Estimate, clustered_mean_estimate, mean_estimate
from backend.domain.wording import percent, plural

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
