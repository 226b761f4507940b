"""Differences that an evaluation can detect, and the items that a difference needs, before anything runs.

For 0/1 scores the variance of one item's difference is its discordance: the share of items on which two checkpoints differ (less the
squared difference). It is measured where two checkpoints were evaluated before, planned otherwise, and stated beside each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy

from backend.errors import InvalidInput

PLANNED_DISCORDANCE = 0.3
"""Share of items on which two checkpoints differ, until it was measured: unlike checkpoints of 40 to 80 % accuracy differ on 25 to 35 %."""


@dataclass(frozen=True)
class PowerPlan:
    """Power of a comparison of two checkpoints on `n` items, before it runs.

    `detectable`: smallest true difference found with `power`. `discordance`: assumed share of differing items; `measured_pairs` counts
    the pairs of earlier evaluations that it is the median of, 0 where it is planned. `design_effect`: variance of clusters over that of
    separate items. `items_for`: (difference, items that it needs) for some differences worth finding.
    """

    n: int
    detectable: float
    discordance: float
    measured_pairs: int
    design_effect: float
    level: float
    power: float
    items_for: tuple[tuple[float, int], ...]


def plan_power(
    n: int,
    *,
    discordance: float | None = None,
    measured_pairs: int = 0,
    design_effect: float = 1.0,
    level: float = 0.95,
    power: float = 0.8,
    differences: tuple[float, ...] = (0.01, 0.02, 0.05),
) -> PowerPlan:
    """Plan the paired comparison of 0/1 scores on `n` items; `discordance` None takes `PLANNED_DISCORDANCE`."""
    share = PLANNED_DISCORDANCE if discordance is None else discordance
    detectable = detectable_difference(n, discordance=share, design_effect=design_effect, level=level, power=power)
    items_for = tuple(
        (difference, items_needed(difference, discordance=share, design_effect=design_effect, level=level, power=power))
        for difference in differences
        if difference <= share
    )
    return PowerPlan(n, detectable, share, measured_pairs if discordance is not None else 0, design_effect, level, power, items_for)


def detectable_difference(n: int, *, discordance: float, design_effect: float = 1.0, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest true difference of two accuracies that `n` shared items find with this power, at most 1.

    Solves delta = (z_(a/2) sqrt(q) + z_b sqrt(q - delta^2)) sqrt(deff / n) for discordance q (Connor 1987, Biometrics 43, 207-211).
    The two checkpoints can't differ by more than q: where `n` is too small even for that, more discordance is assumed.
    """
    _check_discordance(discordance)
    if n < 1:
        raise InvalidInput(f"{n} items find no difference.", field="n")
    significance, beta = _power_quantiles(1 - level, power)
    delta = 0.0
    for _ in range(200):
        share = max(discordance, delta)
        update = (significance * math.sqrt(share) + beta * math.sqrt(max(share - delta**2, 0.0))) * math.sqrt(design_effect / n)
        if update >= 1.0:
            return 1.0
        if abs(update - delta) < 1e-9:
            break
        delta = (delta + update) / 2
    return delta


def items_needed(
    difference: float, *, discordance: float, design_effect: float = 1.0, level: float = 0.95, power: float = 0.8, margin: float = 0.0
) -> int:
    """Return the items on which a true difference of two accuracies is found with this power: Connor (1987), eq. for n.

    `margin` shifts the hypothesis: non-inferiority with margin m tests -m instead of 0, so the distance is `difference` + m.
    """
    _check_discordance(discordance)
    distance = abs(difference + margin)
    if distance == 0 or not math.isfinite(distance):
        raise InvalidInput(
            f"An effect of {difference:g} needs endless items.", remedy="Name the smallest difference worth acting on.", field="difference"
        )
    share = max(discordance, abs(difference))
    significance, beta = _power_quantiles(1 - level, power)
    root = significance * math.sqrt(share) + beta * math.sqrt(max(share - difference**2, 0.0))
    return math.ceil(design_effect * (root / distance) ** 2)


def power_of(
    difference: float, n: int, *, discordance: float, design_effect: float = 1.0, level: float = 0.95, margin: float = 0.0
) -> float:
    """Return the chance that `n` shared items show a true difference above -`margin`, one direction of a two-sided test."""
    _check_discordance(discordance)
    share = max(discordance, abs(difference))
    critical = float(scipy.stats.norm.ppf(0.5 + level / 2)) * math.sqrt(share * design_effect / n)
    spread = math.sqrt(max(share - difference**2, 1e-12) * design_effect / n)
    return float(scipy.stats.norm.sf((critical - (difference + margin)) / spread))


def minimum_detectable_effect(n: int, *, difference_sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that n paired items find with this power; `difference_sd` is the sd of one item's difference."""
    if n < 1 or difference_sd < 0:
        raise InvalidInput(f"{n} items with a standard deviation of {difference_sd} give no effect size.", field="n")
    return sum(_power_quantiles(alpha, power)) * difference_sd / math.sqrt(n)


def required_items(
    effect: float,
    *,
    omega_squared: float = 1 / 9,
    within_variances: tuple[float, float] = (0.0, 0.0),
    samples_per_item: tuple[int, int] = (1, 1),
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Return the number of items that detect a true difference `effect`: Miller (2024), eq. 9. `required_items(0.03)` is 969.

    `omega_squared` is the variance over items of the difference of expected scores; `within_variances` are the variances of one sample
    about its item's expected score, of either checkpoint, divided by `samples_per_item`. Of 0/1 scores `omega_squared` alone is no
    discordance: use `items_needed`.
    """
    if effect == 0 or not math.isfinite(effect):
        raise InvalidInput(
            f"An effect of {effect} needs infinitely many items.", remedy="Name the smallest difference worth acting on.", field="effect"
        )
    variance = omega_squared + sum(within / count for within, count in zip(within_variances, samples_per_item, strict=True))
    return math.ceil(sum(_power_quantiles(alpha, power)) ** 2 * variance / effect**2)


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
    return float(scipy.stats.norm.ppf(1 - alpha / 2)), float(scipy.stats.norm.ppf(power))
