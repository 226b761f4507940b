"""Metrics of several sampled answers to one question, and of rankings of its choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from backend.errors import InvalidInput

T = TypeVar("T")

Correct = Callable[[str, Sequence[str]], float]
"""Decides whether one answer is right: 1 or 0."""


def pass_at(outcomes: Sequence[bool], *, k: int) -> float:
    """Return the unbiased chance that one of k samples is right (Chen et al. 2021)."""
    from backend.domain.statistics.estimates import pass_at_k

    return pass_at_k(len(outcomes), sum(outcomes), k)


def average_at(outcomes: Sequence[bool], *, k: int) -> float:
    """Return the share of right answers among the first k samples."""
    return sum(_first(outcomes, k)) / k


def majority_at(answers: Sequence[str | None], references: Sequence[str], *, k: int, correct: Correct) -> float:
    """Return 1 if the most frequent of the first k answers is right; of equally frequent ones the earliest counts."""
    return correct(_most_frequent([answer.strip() for answer in _first(answers, k) if answer is not None]), references)


def _most_frequent(answers: list[str]) -> str:
    return Counter(answers).most_common(1)[0][0] if answers else ""


def g_pass_at(outcomes: Sequence[bool], *, k: int, threshold: float) -> float:
    """Return G-Pass@k: the chance that `threshold` of k samples, and at least one, are right (arXiv 2412.13147)."""
    return _at_least(outcomes, k=k, least=max(math.ceil(threshold * k - 1e-9), 1))


def mean_g_pass_at(outcomes: Sequence[bool], *, k: int) -> float:
    """Return mG-Pass@k: twice the mean of G-Pass@k over the thresholds above one half (Liu et al. 2024)."""
    return 2 / k * sum(_at_least(outcomes, k=k, least=least) for least in range(math.ceil(k / 2) + 1, k + 1))


def _at_least(outcomes: Sequence[bool], *, k: int, least: int) -> float:
    n, right = len(outcomes), sum(outcomes)
    _first(outcomes, k)
    return sum(math.comb(right, j) * math.comb(n - right, k - j) for j in range(least, min(right, k) + 1)) / math.comb(
        n, k
    )


def _first(values: Sequence[T], k: int) -> Sequence[T]:
    if not 1 <= k <= len(values):
        raise InvalidInput(
            f"k is {k}, but there are {len(values)} samples.",
            remedy="Give at least k samples for each item.",
            field="k",
        )
    return values[:k]


def reciprocal_rank(scores: Sequence[float], golds: Sequence[int]) -> float:
    """Return 1 / rank of the best right choice of choices by falling score; ties keep the choices' order."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return 1 / (1 + next(rank for rank, index in enumerate(order) if index in golds))


def recall_at(scores: Sequence[float], golds: Sequence[int], *, k: int) -> float:
    """Return 1 if a right choice is among the k choices with the highest scores."""
    return float(reciprocal_rank(scores, golds) >= 1 / k)


def best_choice(scores: Sequence[float], golds: Sequence[int]) -> float:
    """Return 1 if the choice with the highest score is right; the first of equal ones counts."""
    return recall_at(scores, golds, k=1)


def probability_of_golds(scores: Sequence[float], golds: Sequence[int]) -> float:
    """Return the share of probability on right choices: softmax, as TruthfulQA's mc2 (Lin et al. 2022)."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return sum(weights[index] for index in set(golds)) / sum(weights)
