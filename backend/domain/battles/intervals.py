"""Intervals of ratings: standard errors of strengths and differences, and rank ranges that hold for all pairs."""

from __future__ import annotations

import math

import numpy as np
import scipy

from backend.domain.battles.bradley_terry import Fit
from backend.domain.battles.clusters import ContrastSpread, Covariance, gap_variances, own_variances
from backend.domain.battles.likelihoods import FloatArray, IntArray
from backend.domain.battles.options import RatingOptions

EMPTY = 1e-9
"""A sandwich below this share of the model's variance is empty: votes that never differ."""


def floored(fit: Fit, spread: Covariance, *, anchor_at: int | None) -> tuple[ContrastSpread, ContrastSpread, bool]:
    """Return the spread of all differences and of each rating; with only ties the model's, and True."""
    size = len(fit.theta)
    model_gaps = gap_variances(fit.inverse_hessian, size)
    model_own = own_variances(fit.inverse_hessian, size, anchor_at)
    empty_gaps, empty_own = spread.gaps.variance < EMPTY * model_gaps, spread.own.variance < EMPTY * model_own
    gaps = ContrastSpread(np.where(empty_gaps, model_gaps, spread.gaps.variance), spread.gaps.df)
    own = ContrastSpread(np.where(empty_own, model_own, spread.own.variance), spread.own.df)
    return gaps, own, bool(empty_gaps.any() or empty_own.any())


def rank_ranges(fit: Fit, spread: Covariance, gaps: ContrastSpread, options: RatingOptions) -> IntArray:
    """Best and worst rank of each contestant from simultaneous intervals of all differences (max-t).

    The critical value is a quantile of the simulated largest |t| at the pairs' median degrees of freedom; each pair
    gets Student's t at the same error rate with its own. Source: Hothorn, Bretz and Westfall (2008), Biometrical
    Journal 50.
    """
    size = len(fit.theta)
    rows, columns = np.triu_indices(size, 1)
    block = spread.matrix[:size, :size]
    deviations = np.sqrt(np.maximum(gap_variances(block, size), EMPTY * gaps.variance))
    rng, df = np.random.default_rng(options.seed), float(np.median(gaps.df[rows, columns]))
    draws = rng.standard_normal((options.num_draws, spread.root.shape[1])) @ spread.root[:size].T
    largest = _largest(draws, deviations)
    if math.isfinite(df):
        largest /= np.sqrt(rng.chisquare(df, options.num_draws) / df)
    error_rate = min(2 * float(scipy.special.stdtr(df, -float(np.quantile(largest, options.level)))), 1 - options.level)
    margins = -scipy.special.stdtrit(gaps.df, error_rate / 2) * np.sqrt(gaps.variance)
    clearly_above = fit.theta[:, None] - fit.theta[None, :] > np.where(margins > 0, margins, np.inf)
    return np.column_stack([1 + clearly_above.sum(0), size - clearly_above.sum(1)]).astype(np.int64)


def _largest(draws: FloatArray, deviations: FloatArray) -> FloatArray:
    """Return the largest standardised difference of each draw."""
    by_contestant = np.ascontiguousarray(draws.T, dtype=np.float32)
    precisions = (1 / (deviations + np.eye(len(deviations)))).astype(np.float32)
    largest = np.zeros(len(draws), dtype=np.float32)
    for code in range(len(by_contestant) - 1):
        gaps = np.abs(by_contestant[code + 1 :] - by_contestant[code])
        gaps *= precisions[code + 1 :, code, None]
        np.maximum(largest, gaps.max(0), out=largest)
    return largest.astype(np.float64)
