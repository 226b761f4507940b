"""Differences that an evaluation can detect, and the items that a difference needs, before anything runs.

For 0/1 scores the variance of one item's difference is its discordance: the share of items on which two checkpoints
differ (less the squared difference). It is measured where two checkpoints were evaluated before, planned otherwise, and
stated beside each number.

Power is that of the test which is run: of exact McNemar where every item counts for itself, summed over its outcomes;
of clusters and of margins that of the normal approximation (Connor 1987, Biometrics 43, 207-211), which promises 2 to 3
points too much of exact McNemar.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy

from backend.domain.statistics.quantiles import LEVEL
from backend.errors import InvalidInput

POWER = 0.8
DIFFERENCES = (0.01, 0.02, 0.05)
PLANNED_DISCORDANCE = 0.3
"""Share of items on which two checkpoints differ, until it was measured: unlike checkpoints of 40 to 80 % accuracy
differ on 25 to 35 %.
"""
MAX_EXACT = 100_000
"""Items up to which power is summed exactly; beyond, the normal approximation differs by less than 0.2 points."""


@dataclass(frozen=True)
class PowerPlan:
    """Power of a comparison of two checkpoints on `n` items, before it runs.

    `detectable`: smallest true difference found with `power`; None where even one on all differing items, all in one
    direction, is found less often. `discordance`: assumed share of differing items;
    `measured_pairs` counts the pairs of earlier evaluations that it is the median of, 0 where it is planned.
    `design_effect`: variance of clusters over that of separate items. `items_for`: (difference, items that it needs)
    for some differences worth finding.
    """

    n: int
    detectable: float | None
    discordance: float
    measured_pairs: int
    design_effect: float
    level: float
    power: float
    items_for: tuple[tuple[float, int], ...]


def plan_power(
    n: int, *, discordance: float | None = None, measured_pairs: int = 0, design_effect: float = 1.0
) -> PowerPlan:
    """Plan the paired comparison of 0/1 scores on `n` items; `discordance` None takes `PLANNED_DISCORDANCE`."""
    share = PLANNED_DISCORDANCE if discordance is None else discordance
    return PowerPlan(
        n,
        detectable_difference(n, discordance=share, design_effect=design_effect),
        share,
        measured_pairs if discordance is not None else 0,
        design_effect,
        LEVEL,
        POWER,
        tuple(
            (difference, items_needed(difference, discordance=share, design_effect=design_effect))
            for difference in DIFFERENCES
            if difference <= share
        ),
    )


def detectable_difference(
    n: int, *, discordance: float, design_effect: float = 1.0, level: float = LEVEL, power: float = POWER
) -> float | None:
    """Return the smallest true difference of two accuracies that `n` shared items find with this power.

    Two checkpoints can't differ by more than their discordance; None where `n` items are too few even for that.
    """
    _check_discordance(discordance)
    _power_quantiles(1 - level, power)
    if n < 1:
        raise InvalidInput(f"{n} items find no difference.", field="n")

    def reaches(difference: float) -> bool:
        return power_of(difference, n, discordance=discordance, design_effect=design_effect, level=level) >= power

    low, high = 0.0, discordance
    if not reaches(high):
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def items_needed(
    difference: float,
    *,
    discordance: float,
    design_effect: float = 1.0,
    level: float = LEVEL,
    power: float = POWER,
    margin: float = 0.0,
) -> int:
    """Return the items on which a true difference of two accuracies is found with this power.

    `margin` shifts the hypothesis: non-inferiority with margin m tests -m instead of 0, so the distance is `difference`
    + m.
    """
    _check_discordance(discordance)
    distance = abs(difference + margin)
    if distance == 0 or not math.isfinite(distance):
        raise InvalidInput(
            f"An effect of {difference:g} needs endless items.",
            remedy="Name the smallest difference worth acting on.",
            field="difference",
        )
    share = max(discordance, abs(difference))
    significance, beta = _power_quantiles(1 - level, power)
    root = significance * math.sqrt(share) + beta * math.sqrt(max(share - difference**2, 0.0))
    normal = math.ceil(design_effect * (root / distance) ** 2)
    if margin or design_effect != 1 or normal > MAX_EXACT:
        return normal
    return _least_items(
        lambda n: _exact_power(abs(difference), n, discordance=share, level=level) >= power, start=normal
    )


def _least_items(reaches: Callable[[int], bool], *, start: int) -> int:
    """Return the least number that reaches the power, near the normal one, taking power as growing with the items."""
    low, high = start // 2, start
    while not reaches(high):
        low, high = high, high + max(high // 8, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def power_of(
    difference: float,
    n: int,
    *,
    discordance: float,
    design_effect: float = 1.0,
    level: float = LEVEL,
    margin: float = 0.0,
) -> float:
    """Return the chance that `n` shared items show a true difference above -`margin`, one way of a two-sided test."""
    _check_discordance(discordance)
    share = max(discordance, abs(difference))
    if not margin and design_effect == 1 and n <= MAX_EXACT:
        return _exact_power(difference, n, discordance=share, level=level)
    critical = float(scipy.special.ndtri(0.5 + level / 2)) * math.sqrt(share * design_effect / n)
    spread = math.sqrt(max(share - difference**2, 1e-12) * design_effect / n)
    return float(scipy.special.ndtr((difference + margin - critical) / spread))


@lru_cache(maxsize=4096)
def _exact_power(difference: float, n: int, *, discordance: float, level: float) -> float:
    """Return the chance that exact McNemar finds a difference in its direction.

    Of n items a binomial number d differs, and of these a binomial number are losses; McNemar rejects up to the largest
    number of losses whose doubled binomial tail is below 1 - level. Numbers d with a chance below 1e-12 together are
    left out.
    """
    binom, bounds = scipy.stats.binom, (1e-12, 1 - 1e-12)
    least, most = (int(binom.ppf(bound, n, discordance)) for bound in bounds)
    differing = np.arange(least, most + 1)
    # the least whose tail reaches the level: one less is below it
    losses = np.asarray(binom.ppf((1 - level) / 2, differing, 0.5))
    losses = losses - (binom.cdf(losses, differing, 0.5) >= (1 - level) / 2)
    rejects = np.where(losses >= 0, binom.cdf(losses, differing, (1 - difference / discordance) / 2), 0.0)
    return float(binom.pmf(differing, n, discordance) @ rejects)


def _check_discordance(discordance: float) -> None:
    if not 0 < discordance <= 1:
        raise InvalidInput(
            f"A discordance of {discordance:g} is not a share between 0 and 1.",
            remedy="Give the share of items that differ.",
            field="discordance",
        )


def _power_quantiles(alpha: float, power: float) -> tuple[float, float]:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise InvalidInput(f"alpha {alpha} and power {power} must lie between 0 and 1.", field="alpha")
    return float(scipy.special.ndtri(1 - alpha / 2)), float(scipy.special.ndtri(power))
