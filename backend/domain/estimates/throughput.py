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


MAX_EXTRAPOLATION = 8.0
"""Factor beyond the smallest and the largest measured pass up to which a rate is expected to stay."""
MIN_FOR_ERROR = 3


def rate_at(speeds: Sequence[Speed], flops_per_token: float) -> float:
    """Return the expected FLOP/s for a network.

    Linear interpolation of logarithms between measured networks, constant beyond the smallest and the largest;
    measurements of about one size are averaged first. `speeds` must not be empty.
    """
    points = _average_by_size([(speed.flops_per_token, speed.flops_per_s) for speed in speeds])
    return math.exp(_interpolate(points, math.log(flops_per_token)))


@dataclass(frozen=True)
class PassRate:
    """The expected FLOP/s of a pass; `error` is the mean leave-one-out error of its logarithm, None with too few."""

    flops_per_s: float
    error: float | None


def rate_of_pass(measured: Sequence[tuple[float, float]], flops: float) -> PassRate | None:
    """Return the expected rate of a forward and backward pass of so many FLOPs, as `rate_at` does; None if no pass of
    about that work was measured. `measured` are (FLOPs of a pass, FLOP/s).

    A pass of little work waits for Python and kernels to start, so its rate says nothing of one of much work.
    """
    points = _average_by_size(measured)
    if not points:
        return None
    size, room = math.log(flops), math.log(MAX_EXTRAPOLATION)
    if not points[0][0] - room <= size <= points[-1][0] + room:
        return None
    errors = (
        [abs(_interpolate(points[:index] + points[index + 1 :], at) - rate) for index, (at, rate) in enumerate(points)]
        if len(points) >= MIN_FOR_ERROR
        else []
    )
    return PassRate(math.exp(_interpolate(points, size)), float(np.mean(errors)) if errors else None)


def _average_by_size(measured: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the logarithms of (size, rate), those of about one size averaged, the smallest first."""
    groups: dict[float, list[tuple[float, float]]] = {}
    for size, rate in measured:
        groups.setdefault(round(math.log(size), 1), []).append((math.log(size), math.log(rate)))
    return [(float(size), float(rate)) for size, rate in (np.mean(groups[key], axis=0) for key in sorted(groups))]


def _interpolate(points: Sequence[tuple[float, float]], size: float) -> float:
    sizes, rates = zip(*points, strict=True)
    return float(np.interp(size, sizes, rates))


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
