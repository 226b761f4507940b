"""Calibration of confidences: expected calibration error and Brier score."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from backend.domain.statistics.estimates import finite_scores


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, *, num_bins: int = 10) -> float:
    """Mean |accuracy - confidence| over bins of equal mass; equal confidences are never split, so the order of items does not matter."""
    sure, right = finite_scores(confidences), finite_scores(correct)
    edges = np.quantile(sure, np.linspace(0, 1, num_bins + 1)[1:-1])
    bins = np.searchsorted(edges, sure, side="left")
    return float(np.abs(np.bincount(bins, right, num_bins) - np.bincount(bins, sure, num_bins)).sum() / len(sure))


def brier(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared distance of confidence from the outcome (0 or 1). Brier (1950)."""
    return float(np.mean((finite_scores(confidences) - finite_scores(correct)) ** 2))
