"""Training throughput of a device: measured FLOP/s, and expected FLOP/s for other network sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Speed:
    """One measurement: training FLOPs per token of the trained network, and the device's FLOP/s."""

    flops_per_token: float
    flops_per_s: float
    device: str
    source: str


def rate_at(speeds: Sequence[Speed], flops_per_token: float) -> float:
    """Return the expected FLOP/s for a network.

    Linear interpolation of logarithms between measured networks, constant beyond the smallest and the largest;
    measurements of about one size are averaged first. `speeds` must not be empty.
    """
    groups: dict[float, list[tuple[float, float]]] = {}
    for speed in speeds:
        size = math.log(speed.flops_per_token)
        groups.setdefault(round(size, 1), []).append((size, math.log(speed.flops_per_s)))
    sizes, rates = np.array([np.mean(groups[key], axis=0) for key in sorted(groups)]).T
    return math.exp(float(np.interp(math.log(flops_per_token), sizes, rates)))


def measured_range(speeds: Sequence[Speed]) -> tuple[float, float]:
    """Return the FLOPs per token of the smallest and the largest measured network."""
    sizes = [speed.flops_per_token for speed in speeds]
    return min(sizes), max(sizes)
