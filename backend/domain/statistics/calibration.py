"""Agreement of confidences with outcomes: expected calibration error, Brier score, reliability plot with a consistency
band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from backend.domain.statistics.estimates import FloatArray, IntArray, finite_scores, normal_quantile, wilson_interval
from backend.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items of like confidence. `low` and `high`: Wilson's interval of the accuracy.

    `band_low` and `band_high` hold the accuracy that a perfectly calibrated network shows in 95 of 100 draws of as many
    items.
    """

    confidence: float
    accuracy: float
    n: int
    low: float
    high: float
    band_low: float
    band_high: float


@dataclass(frozen=True, slots=True)
class ProbabilityCalibration:
    """Calibration of a network. `ece_expected` is the error that sampling alone gives a calibrated network, `ece_high`
    its 95 % bound.
    """

    ece: float
    brier: float
    n: int
    ece_expected: float
    ece_high: float
    bins: tuple[ReliabilityBin, ...]

    @property
    def is_miscalibrated(self) -> bool:
        """Return whether the error exceeds what sampling alone explains at 95 %."""
        return self.ece > self.ece_high


def brier(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared distance of confidence from the outcome (0 or 1). Brier (1950)."""
    sure, right = _pair(confidences, correct)
    return float(np.mean((sure - right) ** 2))


def calibration(
    confidences: ArrayLike,
    correct: ArrayLike,
    *,
    num_bins: int = 10,
    level: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> ProbabilityCalibration:
    """Measure calibration. The band draws outcomes with the stated confidences (Broecker and Smith 2007, Weather and
    Forecasting 22).

    Confidences must lie between 0 and 1; outcomes are 0 or 1, or shared credit between.
    """
    sure, right = _pair(confidences, correct)
    codes, count = _equal_mass(sure, num_bins)
    sizes, sums = np.bincount(codes, minlength=count), np.bincount(codes, sure, count)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // len(sure))  # draws at once: 16 MB of random numbers
    hits = np.concatenate(
        [
            np.add.reduceat(
                (rng.random((min(block, num_draws - at), len(sure))) < sure[order]).astype(np.float64), starts, axis=1
            )
            for at in range(0, num_draws, block)
        ]
    )
    errors = np.abs(hits - sums).sum(axis=1) / len(sure)
    band_low, band_high = np.quantile(hits / sizes, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    accuracies = np.bincount(codes, right, count) / sizes
    critical = normal_quantile(level)
    intervals = [
        wilson_interval(float(share), int(size), critical=critical)
        for share, size in zip(accuracies, sizes, strict=True)
    ]
    bins = tuple(
        ReliabilityBin(
            float(sums[b] / sizes[b]),
            float(accuracies[b]),
            int(sizes[b]),
            *intervals[b],
            float(band_low[b]),
            float(band_high[b]),
        )
        for b in range(count)
    )
    ece = float((np.abs(accuracies - sums / sizes) * sizes).sum() / len(sure))
    return ProbabilityCalibration(
        ece, brier(sure, right), len(sure), float(errors.mean()), float(np.quantile(errors, level)), bins
    )


def _pair(confidences: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, FloatArray]:
    sure, right = finite_scores(confidences), finite_scores(correct)
    if len(sure) != len(right):
        raise InvalidInput(
            f"{len(sure)} confidences do not match {len(right)} outcomes.", remedy="Give one of each per item."
        )
    if sure.min() < 0 or sure.max() > 1:
        outside = sure[(sure < 0) | (sure > 1)][0]
        raise InvalidInput(
            f"A confidence of {outside:g} is not a probability.",
            remedy="Give numbers from 0 to 1.",
            field="confidences",
        )
    return sure, right


def _equal_mass(sure: FloatArray, num_bins: int) -> tuple[IntArray, int]:
    """Number bins of about equal mass, empty ones left out."""
    edges = np.quantile(sure, np.linspace(0, 1, num_bins + 1)[1:-1])
    values, codes = np.unique(np.searchsorted(edges, sure, side="left"), return_inverse=True)
    return codes.astype(np.int64), len(values)
