"""Board of single-answer ratings: each contestant's share of thumbs up or mean of 1 to 5, with an interval clustered
two ways.

Ratings on one prompt depend on each other, and so do one rater's: V = V_prompt + V_rater - V_both (Cameron, Gelbach and
Miller 2011, J. Bus. Econ. Stat. 29), at least the larger of the first two, and Student's t with the fewer clusters less
one degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.estimates import Estimate, cluster_codes, student_quantile

FloatArray = NDArray[np.float64]
Scale = Literal["thumbs", "stars"]
BOUNDS: dict[Scale, tuple[float, float]] = {"thumbs": (0.0, 1.0), "stars": (1.0, 5.0)}
THUMBS_UP = 4
"""Grades from which on an answer counts as good; thumbs give 1 and 5."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A rater's grade of one answer, 1 to 5."""

    contestant: str
    prompt: str
    rater: str
    value: int


@dataclass(frozen=True, slots=True)
class GradedContestant:
    """A contestant's mean grade, or its share of good answers under thumbs; no interval with one prompt or rater."""

    contestant: str
    score: Estimate
    ratings: int
    prompts: int
    raters: int


def grade_contestants(grades: Sequence[Grade], *, scale: Scale) -> list[GradedContestant]:
    """Rate contestants by their grades, best first; equal ones by name."""
    by_contestant: dict[str, list[Grade]] = {}
    for grade in grades:
        by_contestant.setdefault(grade.contestant, []).append(grade)
    rows = []
    for name, own in by_contestant.items():
        values = np.array(
            [float(grade.value >= THUMBS_UP) if scale == "thumbs" else grade.value for grade in own], dtype=np.float64
        )
        prompts, raters = [grade.prompt for grade in own], [grade.rater for grade in own]
        score = two_way_mean(values, prompts, raters, bounds=BOUNDS[scale])
        rows.append(GradedContestant(name, score, len(own), len(set(prompts)), len(set(raters))))
    return sorted(rows, key=lambda row: (-row.score.value, row.contestant))


def two_way_mean(
    values: FloatArray,
    prompts: Sequence[Hashable],
    raters: Sequence[Hashable],
    *,
    bounds: tuple[float, float],
) -> Estimate:
    """Average values, with an interval by prompt and rater, clipped to `bounds`; none with fewer than two of either."""
    mean, n = float(values.mean()), len(values)
    sizes = [cluster_codes(way)[1] for way in (prompts, raters)]
    if min(sizes) < 2:
        return Estimate(mean, None, None, None, n, "mean; one prompt or one rater gives no interval")
    residuals = values - mean
    by_prompt, by_rater, by_both = (
        _variance(residuals, way) for way in (prompts, raters, list(zip(prompts, raters, strict=True)))
    )
    variance = max(by_prompt, by_rater, by_prompt + by_rater - by_both)
    if variance <= 0:
        return Estimate(mean, None, None, None, n, "mean of equal grades; no interval")
    margin = student_quantile(0.95, df=min(sizes) - 1) * math.sqrt(variance)
    method = f"mean, clustered by prompt ({sizes[0]}) and rater ({sizes[1]}), t({min(sizes) - 1}) 95 %"
    return Estimate(mean, math.sqrt(variance), max(bounds[0], mean - margin), min(bounds[1], mean + margin), n, method)


def _variance(residuals: FloatArray, clusters: Sequence[Hashable]) -> float:
    codes, count = cluster_codes(clusters)
    sums = np.bincount(codes, residuals, count)
    return count / max(1, count - 1) * float(sums @ sums) / len(residuals) ** 2
