"""IsoFLOP profiles: at each budget a parabola through loss over log N, whose minimum is the optimal size.

Hoffmann et al. 2022 (arXiv 2203.15556), approach 2. Needs no law, but runs of one budget at several sizes; over a wide
range of sizes the parabola is biased, because the true profile is asymmetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.scaling.laws import ScalingPoint
from backend.domain.statistics.estimates import Estimate, normal_quantile, student_quantile
from backend.domain.statistics.quantiles import LEVEL
from backend.domain.wording import percent

FloatArray = NDArray[np.float64]

MIN_SIZES = 4
SAME_BUDGET = 0.15
"""Runs whose budgets' logarithms differ by less belong to one profile."""
NUM_DRAWS = 500


@dataclass(frozen=True)
class Profile:
    """One budget's parabola: loss = lowest + curvature (ln N - ln best)^2.

    `best_*` are None if its minimum is not inside the range of sizes.
    """

    flops: float
    points: tuple[ScalingPoint, ...]
    coefficients: tuple[float, float, float]  # of 1, ln N, (ln N)^2
    best_parameters: Estimate | None
    best_tokens: float | None
    lowest_loss: float | None

    def loss(self, parameters: float) -> float:
        """Return the parabola at N parameters."""
        at = math.log(parameters)
        constant, slope, curvature = self.coefficients
        return constant + slope * at + curvature * at * at


@dataclass(frozen=True)
class IsoflopFit:
    """Profiles by budget, and N_opt = k C^a through their lowest points; `exponent` is None with fewer than two."""

    profiles: tuple[Profile, ...]
    exponent: Estimate | None
    coefficient: float | None


def group_by_budget(points: Sequence[ScalingPoint]) -> list[list[ScalingPoint]]:
    """Return runs in groups of about the same budget, smallest first."""
    groups: list[list[ScalingPoint]] = []
    for point in sorted(points, key=lambda p: p.flops):
        if groups and math.log(point.flops / groups[-1][0].flops) < SAME_BUDGET:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def fit_isoflop(points: Sequence[ScalingPoint], *, seed: int = 0) -> IsoflopFit:
    """Fit a parabola to each budget that has four sizes or more, and the power law through their lowest points.

    Intervals by resampling the residuals of each parabola, stretched for the three coefficients fitted to few runs.
    """
    rng = np.random.default_rng(seed)
    profiles: list[Profile] = []
    lowest: list[tuple[float, FloatArray]] = []  # log C, draws of log N_opt
    for group in group_by_budget(points):
        if len({round(math.log(point.parameters), 2) for point in group}) < MIN_SIZES:
            continue
        profile, draws = _fit_profile(group, rng)
        profiles.append(profile)
        if profile.best_parameters is not None:
            lowest.append((math.log(profile.flops), draws))
    return IsoflopFit(tuple(profiles), *_power_law(profiles, lowest))


def _fit_profile(group: list[ScalingPoint], rng: np.random.Generator) -> tuple[Profile, FloatArray]:
    n = np.log([point.parameters for point in group])
    loss = np.array([point.loss for point in group])
    centre = n.mean()
    design = np.vander(n - centre, 3, increasing=True)
    solve = np.linalg.pinv(design)
    coefficients = solve @ loss
    residuals = loss - design @ coefficients
    freedom = max(len(n) - 3, 1)
    stretch = math.sqrt(len(n) / freedom) * student_quantile(LEVEL, df=freedom) / normal_quantile(LEVEL)
    noise = rng.choice(residuals - residuals.mean(), size=(NUM_DRAWS, len(n))) * stretch
    draws = coefficients + noise @ solve.T
    flops = math.exp(float(np.mean([math.log(point.flops) for point in group])))
    best = _vertex(coefficients[None], n - centre)[0]
    vertices = centre + _vertex(draws, n - centre)
    raw = _uncentred(coefficients, centre)
    if not math.isfinite(best):
        return Profile(flops, tuple(group), raw, None, None, None), vertices
    log_best = float(centre + best)
    usable = vertices[np.isfinite(vertices)]
    size = math.exp(log_best)
    low, high = (
        np.exp(np.quantile(usable, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]))
        if len(usable) >= 0.9 * NUM_DRAWS
        else (None, None)
    )
    estimate = Estimate(
        size,
        None,
        None if low is None else min(float(low), size),
        None if high is None else max(float(high), size),
        len(group),
        f"resampled residuals of {len(group)} runs, {percent(LEVEL, digits=None)}",
    )
    tokens = math.exp(float(np.mean([math.log(point.tokens * point.parameters) for point in group]))) / size
    lowest = float(coefficients[0] + coefficients[1] * best + coefficients[2] * best**2)
    return Profile(flops, tuple(group), raw, estimate, tokens, lowest), vertices


def _vertex(coefficients: FloatArray, n: FloatArray) -> FloatArray:
    """Return the minimum of each parabola; NaN where it opens downwards or has it outside the trained sizes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        at = -coefficients[:, 1] / (2 * coefficients[:, 2])
    return np.where((coefficients[:, 2] > 0) & (at >= n.min()) & (at <= n.max()), at, np.nan)


def _uncentred(coefficients: FloatArray, centre: float) -> tuple[float, float, float]:
    constant, slope, curvature = (float(value) for value in coefficients)
    return constant - slope * centre + curvature * centre**2, slope - 2 * curvature * centre, curvature


def _power_law(
    profiles: Sequence[Profile], lowest: Sequence[tuple[float, FloatArray]]
) -> tuple[Estimate | None, float | None]:
    if len(lowest) < 2:
        return None, None
    budgets = np.array([budget for budget, _ in lowest])
    sizes = np.array([math.log(p.best_parameters.value) for p in profiles if p.best_parameters is not None])
    slope, intercept = np.polyfit(budgets, sizes, 1)
    draws = np.column_stack([draw for _, draw in lowest])
    draws = draws[np.isfinite(draws).all(axis=1)]
    method = f"power law through {len(lowest)} budgets' best sizes, resampled residuals, {percent(LEVEL, digits=None)}"
    if len(draws) < 100:
        return Estimate(
            float(slope), None, None, None, len(lowest), f"{method}: too uncertain for an interval"
        ), math.exp(intercept)
    slopes = np.polyfit(budgets, draws.T, 1)[0]
    low, high = np.quantile(slopes, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(
        float(slope),
        float(slopes.std()),
        min(float(low), float(slope)),
        max(float(high), float(slope)),
        len(lowest),
        method,
    ), math.exp(intercept)
