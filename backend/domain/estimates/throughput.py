"""Training throughput of a device: its peak, measured FLOP/s, and expected FLOP/s for other network sizes."""

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


BF16_DENSE_FLOPS: dict[str, float] = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100 NVL": 8.35e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "A10G": 7.0e13,
    "A10": 1.25e14,
    "L4": 1.21e14,
    "RTX 4090": 1.652e14,
    "RTX 3090": 7.1e13,
}
"""Dense bf16 operations a second with fp32 sums, by a part of the device's name, the longer first where one holds the
other.

NVIDIA's data sheets of the devices (H100, H200, B200, A100, L40S, L4, A10), Amazon's of the A10G, and NVIDIA's white
papers of the Ada and Ampere GA102 architectures; figures with sparsity are halved.
"""


def peak_flops(device: str) -> float | None:
    """Return the dense bf16 peak of a GPU by its driver's name, in operations per second; None for an unlisted one.

    Example:
        >>> peak_flops("NVIDIA H100 80GB HBM3")
        989000000000000.0
    """
    words = device.replace("-", " ").split()
    for name in sorted(BF16_DENSE_FLOPS, key=len, reverse=True):
        if all(part in words for part in name.split()):
            return BF16_DENSE_FLOPS[name]
    return None
