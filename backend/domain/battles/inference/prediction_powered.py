"""Share of a pair from raters' votes on some prompts and a judge's verdicts on all: prediction-powered inference.

The judge is a control variate: its error is measured where raters voted too and removed, so the interval is valid for
any judge, and narrower for one that agrees with the raters. Judge verdicts never count as votes. Source: Angelopoulos,
Duchi and Zrnic (2023), "PPI++", arXiv 2311.01453, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.domain.battles.votes import POINTS_OF_A, Label, VoteRecord
from backend.domain.statistics.estimates import Estimate, finite_scores, mean_estimate, student_quantile
from backend.domain.statistics.quantiles import LEVEL
from backend.domain.wording import percent
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]

MIN_PROMPTS = 10
"""Prompts with votes and verdicts below which the weight of the judge can't be estimated."""


@dataclass(frozen=True, slots=True)
class AssistedShare:
    """Share that a contestant earned, by votes and judge (`share`) and by the same votes alone (`alone`).

    `correlation` is that of votes' and judge's means on the `num_voted` prompts that have both; `weight` the judge's, 0
    to 1. `num_judged` prompts have a verdict and no vote. `votes_saved` is the share of votes that the judge spared: 1
    - variance / variance alone.
    """

    share: Estimate
    alone: Estimate
    correlation: float
    weight: float
    num_voted: int
    num_judged: int
    votes_saved: float


def assisted_mean(scores: ArrayLike, predictions: ArrayLike, more_predictions: ArrayLike) -> AssistedShare:
    """Average `scores` with the help of `predictions` of the same units and `more_predictions` of units without a
    score.

    mean(Y) + w (mean(F') - mean(F)), w = cov(Y, F) / ((1 + n / N) var(F)), variance var(Y - w F) / n + w^2 var(F') / N,
    t(n - 2). Raises InvalidInput for fewer than 10 scores, or numbers that don't match.
    """
    y, f = finite_scores(scores), finite_scores(predictions)
    more = np.asarray(more_predictions, dtype=np.float64)
    if len(y) != len(f):
        raise InvalidInput(
            f"{len(y)} scores don't match {len(f)} predictions.", remedy="Give one prediction for each score."
        )
    if len(y) < MIN_PROMPTS:
        raise InvalidInput(
            f"{len(y)} prompts have votes and a judge's verdict.",
            remedy=f"Collect votes on {MIN_PROMPTS} judged prompts.",
            field="votes",
        )
    alone = mean_estimate(y)
    weight = _weight(y, f, more)
    varying = f.std() > 0 and y.std() > 0
    variance = float((y - weight * f).var(ddof=2 if weight else 1)) / len(y)
    if weight:
        variance += weight**2 * float(more.var(ddof=1)) / len(more)
    value = float(y.mean()) + (weight * float(more.mean() - f.mean()) if weight else 0.0)
    stderr = math.sqrt(variance)
    margin = student_quantile(LEVEL, df=len(y) - (2 if weight else 1)) * stderr
    method = f"prediction-powered, {len(y)} with votes and {len(more)} with verdicts alone, {percent(LEVEL)}"
    share = Estimate(value, stderr, max(0.0, value - margin), min(1.0, value + margin), len(y), method)
    return AssistedShare(
        share=share,
        alone=alone,
        correlation=float(np.corrcoef(y, f)[0, 1]) if varying else 0.0,
        weight=weight,
        num_voted=len(y),
        num_judged=len(more),
        votes_saved=max(0.0, 1 - variance / alone.stderr**2) if alone.stderr else 0.0,
    )


def assisted_share(votes: Iterable[VoteRecord], first: str, second: str, *, judge: str) -> AssistedShare:
    """Estimate the share of `first` against `second` on the average prompt, from raters' votes and the verdicts of the
    rater `judge`.

    Prompts are the units: each counts once, whatever its votes. Prompts with votes and no verdict are left out. The
    interval is one of a single look. Raises InvalidInput for too few prompts with both.
    """
    by_rater: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for vote in votes:
        if {vote.a, vote.b} == {first, second} and not vote.identical:
            points = POINTS_OF_A[Label(vote.winner)]
            by_rater[vote.rater == judge].setdefault(vote.prompt, []).append(points if vote.a == first else 1 - points)
    people, verdicts = by_rater[False], by_rater[True]
    both = [prompt for prompt in people if prompt in verdicts]
    if not verdicts:
        raise InvalidInput(
            f"{judge!r} judged no battle of {first} and {second}.", remedy="Name another judge.", field="judge"
        )
    return assisted_mean(
        [float(np.mean(people[prompt])) for prompt in both] or [0.5],
        [float(np.mean(verdicts[prompt])) for prompt in both] or [0.5],
        [float(np.mean(points)) for prompt, points in verdicts.items() if prompt not in people],
    )


def _weight(y: FloatArray, f: FloatArray, more: FloatArray) -> float:
    """The weight of least variance, between 0 and 1; 0 without further predictions or variation."""
    if len(more) < 2:
        return 0.0
    variance = float(np.concatenate([f, more]).var(ddof=1))
    if variance <= 0:
        return 0.0
    covariance = float(np.cov(y, f, ddof=1)[0, 1])
    return min(1.0, max(0.0, covariance / ((1 + len(y) / len(more)) * variance)))
