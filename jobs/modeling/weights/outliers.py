"""Flag outlier tensors of a checkpoint. The thresholds are heuristics; a flag does not mean that a network is bad."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from backend.domain.wording import percent
from jobs.modeling.weights.statistics import TensorStatistics

CHANNEL = 8.0
"""Ratio of a row's or column's norm to the median from which on it is an outlier channel (Dettmers et al. 2022, arXiv
2208.07339).
"""
SPIKE = 40.0
"""Distance of an outlier value from 0, in RMS: of 10^9 normal values the largest lies near 6."""
ZEROS = 0.2
"""Share of exact zeros from which on a tensor is flagged."""
UNLIKE = 6.0
"""Deviation of a tensor's log RMS from that part in other layers, in robust standard deviations (1.4826 x MAD)."""
MIN_LAYERS = 6


@dataclass(frozen=True)
class Outlier:
    """An outlier tensor: `weight` orders flags by severity, `text` gives the reason."""

    name: str
    weight: float
    text: str


def find_outliers(tensors: list[TensorStatistics]) -> list[Outlier]:
    """Return the flags, most severe first."""
    outliers = [outlier for tensor in tensors for outlier in _own_flags(tensor)]
    outliers += _unlike_other_layers(tensors)
    return sorted(outliers, key=lambda outlier: -outlier.weight)


def _own_flags(tensor: TensorStatistics) -> list[Outlier]:
    flags = []
    if tensor.not_finite:
        flags.append((1e9, f"{tensor.not_finite:,} of {tensor.values:,} values are NaN or infinite"))
    if tensor.values > 1 and tensor.rms == 0 and not tensor.not_finite and not tensor.name.endswith("bias"):
        flags.append((1e8, "every value is zero"))
    elif tensor.zeros > ZEROS and not tensor.name.endswith("bias"):
        flags.append((10 * tensor.zeros, f"{percent(tensor.zeros)} of its values are exactly zero"))
    if tensor.rms and tensor.largest / tensor.rms > SPIKE:
        times = tensor.largest / tensor.rms
        flags.append((times / SPIKE, f"its largest value, {tensor.largest:.3g}, is {times:.0f} times its RMS"))
    for word, peak in (("row", tensor.row_peak), ("column", tensor.column_peak)):
        if peak is not None and peak[0] > CHANNEL:
            flags.append((peak[0] / CHANNEL, f"{word} {peak[1]:,} has {peak[0]:.0f} times the median {word}'s norm"))
    return [Outlier(tensor.name, weight, text) for weight, text in flags]


def _unlike_other_layers(tensors: list[TensorStatistics]) -> list[Outlier]:
    """Compare each tensor's RMS with the same part in the other layers."""
    parts: dict[str, list[TensorStatistics]] = defaultdict(list)
    for tensor in tensors:
        if tensor.place.layer is not None and tensor.rms > 0:
            parts[tensor.place.part].append(tensor)
    outliers = []
    for group in parts.values():
        if len(group) < MIN_LAYERS:
            continue
        logs = np.log([tensor.rms for tensor in group])
        middle = float(np.median(logs))
        spread = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.02)
        for tensor, value in zip(group, logs, strict=True):
            score = abs(value - middle) / spread
            if score > UNLIKE:
                times = float(np.exp(value - middle))
                ratio = f"{times:.1f} times" if times > 1 else f"1/{1 / times:.1f} of"
                outliers.append(
                    Outlier(
                        tensor.name, score / UNLIKE, f"its RMS, {tensor.rms:.3g}, is {ratio} that of the other layers"
                    )
                )
    return outliers
