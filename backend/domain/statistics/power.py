"""Differences that an evaluation can detect, and the items that a difference needs."""

from __future__ import annotations

import math

import scipy

from backend.errors import InvalidInput


def minimum_detectable_effect(n: int, *, difference_sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that n paired items find with this power; `difference_sd` is the sd of one item's difference."""
    if n < 1 or difference_sd < 0:
        raise InvalidInput(f"{n} items with a standard deviation of {difference_sd} give no effect size.", field="n")
    return _power_quantiles(alpha, power) * difference_sd / math.sqrt(n)


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
    about its item's expected score, of either checkpoint, divided by `samples_per_item`.
    """
    if effect == 0 or not math.isfinite(effect):
        raise InvalidInput(
            f"An effect of {effect} needs infinitely many items.", remedy="Name the smallest difference worth acting on.", field="effect"
        )
    variance = omega_squared + sum(within / count for within, count in zip(within_variances, samples_per_item, strict=True))
    return math.ceil(_power_quantiles(alpha, power) ** 2 * variance / effect**2)


def _power_quantiles(alpha: float, power: float) -> float:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise InvalidInput(f"alpha {alpha} and power {power} must lie between 0 and 1.", field="alpha")
    return float(scipy.stats.norm.ppf(1 - alpha / 2) + scipy.stats.norm.ppf(power))
