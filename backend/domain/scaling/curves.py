"""Lines of scaling laws for charts: the lowest loss by budget, and the loss by size at one budget. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from backend.domain.scaling.isoflop import Profile
from backend.domain.scaling.laws import (
    FLOPS_PER_PARAMETER_TOKEN,
    ScalingLaw,
    effective_tokens,
    optimal_parameters,
    stretch_draws,
)
from backend.domain.statistics.quantiles import LEVEL

NUM_POINTS = 60
SPREAD = 16.0


@dataclass(frozen=True)
class CurveLine:
    """A line with its band, `low` and `high` empty where there is none. x is logarithmic: FLOPs or parameters."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    floor: float | None = None


def frontier_line(law: ScalingLaw, low_flops: float, high_flops: float, *, ceiling: float) -> CurveLine:
    """Return a law's lowest loss for each budget, with the band of its draws; losses above `ceiling` (guessing) are
    left out.
    """
    budgets = np.geomspace(low_flops, high_flops, NUM_POINTS)
    losses = np.array([law.optimum(float(budget)).loss for budget in budgets])
    below_ceiling = losses <= ceiling
    budgets, losses = budgets[below_ceiling], losses[below_ceiling]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    if law.draws is not None and len(budgets):
        bands = [_frontier_band(law, float(budget), float(loss)) for budget, loss in zip(budgets, losses, strict=True)]
        low, high = tuple(band[0] for band in bands), tuple(min(band[1], ceiling) for band in bands)
    return CurveLine(law.title, tuple(budgets.tolist()), tuple(losses.tolist()), low, high, law.E)


def _frontier_band(law: ScalingLaw, flops: float, loss: float) -> tuple[float, float]:
    assert law.draws is not None
    sizes = optimal_parameters(law.draws, flops)
    sound = np.isfinite(sizes)
    draws, sizes = law.draws[sound], sizes[sound]
    if len(sizes) < 0.9 * len(sound):
        return math.nan, math.nan
    e, a, b, alpha, beta = draws.T
    losses = e + a * sizes**-alpha + b * (flops / FLOPS_PER_PARAMETER_TOKEN / sizes) ** -beta
    low, high = np.quantile(stretch_draws(loss, losses, law.stretch), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def profile_line(
    law: ScalingLaw,
    flops: float,
    *,
    name: str,
    ceiling: float,
    unique_tokens: int | None = None,
) -> CurveLine:
    """Return the loss expected by a law for each size at one budget, up to a factor of 16 from the optimum; with
    `unique_tokens`, on data that is repeated where a size sees more.
    """
    best = law.optimum(flops).parameters
    sizes = best * np.geomspace(1 / SPREAD, SPREAD, NUM_POINTS)
    num_tokens = [flops / FLOPS_PER_PARAMETER_TOKEN / float(n) for n in sizes]
    worth = [effective_tokens(tokens, unique_tokens) if unique_tokens else tokens for tokens in num_tokens]
    losses = np.array([law.loss(float(n), tokens) for n, tokens in zip(sizes, worth, strict=True)])
    below_ceiling = losses <= ceiling
    return CurveLine(name, tuple(sizes[below_ceiling].tolist()), tuple(losses[below_ceiling].tolist()))


def parabola_line(profile: Profile, *, name: str) -> CurveLine:
    """Return a measured profile's parabola over the sizes that were trained."""
    sizes = [point.parameters for point in profile.points]
    at = np.geomspace(min(sizes), max(sizes), NUM_POINTS)
    return CurveLine(name, tuple(at.tolist()), tuple(profile.loss(float(n)) for n in at))
