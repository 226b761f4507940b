"""Calibration of the memory estimate on measurements of similar settings, with its leave-one-out error. Pure.

The log ratio of measured to estimated bytes is averaged over the measurements, weighted by similarity and shrunk
towards zero by a prior (kernel regression: Nadaraya 1964, doi 10.1137/1109020). So a probe of a tiny network hardly
changes the estimate of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.setting import TrainingSetting

SIZE_SCALE = 1.0
"""Estimates that differ by a factor e count e ** -0.5 as much."""
OTHER_METHOD, OTHER_FAMILY, OTHER_PRECISION = 0.3, 0.6, 0.6
"""Factors of the similarity for another objective or LoRA, another family, another precision or recompute."""
PRIOR = 0.5
MIN_SIMILARITY = 0.02
MIN_FOR_ERROR, MAX_NEIGHBORS = 3, 32


@dataclass(frozen=True)
class MeasuredPeak:
    """A measured peak. `length` and `trained` are those of the longest sequence, if the data decide them."""

    setting: TrainingSetting
    measured_bytes: int
    length: int | None = None
    trained: int | None = None

    @cached_property
    def estimated_bytes(self) -> int:
        """The formula's estimate with these lengths."""
        return _estimated_total(self.setting, self.length, self.trained)

    @property
    def log_ratio(self) -> float:
        """The logarithm of measured over estimated."""
        return math.log(max(self.measured_bytes, 1) / max(self.estimated_bytes, 1))


@lru_cache(maxsize=2048)
def _estimated_total(setting: TrainingSetting, length: int | None, trained: int | None) -> int:
    return estimate_memory(setting, length=length, trained=trained).total


@dataclass(frozen=True)
class Calibration:
    """A factor for an estimate. `error` is the relative leave-one-out error, None with too few measurements.

    `used` are the indices of the measurements that it is based on.
    """

    factor: float = 1.0
    error: float | None = None
    used: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Known:
    weight: float
    peak: MeasuredPeak
    index: int


def calibrate(setting: TrainingSetting, estimated_bytes: int, measured: Sequence[MeasuredPeak]) -> Calibration:
    """Return the calibration of an estimate by measurements on the same device; the identity if none is similar."""
    known = [
        _Known(similarity(setting, estimated_bytes, peak.setting, peak.estimated_bytes), peak, index)
        for index, peak in enumerate(measured)
    ]
    similar = sorted((each for each in known if each.weight >= MIN_SIMILARITY), key=lambda each: -each.weight)
    counted = similar[:MAX_NEIGHBORS]
    if not counted:
        return Calibration()
    factor = math.exp(_mean_ratio([(each.weight, each.peak.log_ratio) for each in counted]))
    return Calibration(factor, _error(counted), tuple(each.index for each in counted))


def similarity(setting: TrainingSetting, estimated_bytes: int, other: TrainingSetting, other_bytes: int) -> float:
    """Return the similarity of two settings, from 0 to 1."""
    distance = math.log(max(estimated_bytes, 1) / max(other_bytes, 1)) / SIZE_SCALE
    weight = math.exp(-0.5 * distance * distance)
    if setting.objective != other.objective or (setting.lora_rank is None) != (other.lora_rank is None):
        weight *= OTHER_METHOD
    if setting.architecture.family != other.architecture.family:
        weight *= OTHER_FAMILY
    if (setting.precision, setting.recompute, setting.compiled) != (other.precision, other.recompute, other.compiled):
        weight *= OTHER_PRECISION
    return weight


def _mean_ratio(weighted: Sequence[tuple[float, float]]) -> float:
    total = sum(weight for weight, _ in weighted)
    return sum(weight * ratio for weight, ratio in weighted) / (total + PRIOR)


def _error(counted: Sequence[_Known]) -> float | None:
    """Return the mean error, weighted by similarity, of predicting each from the others; None for too few."""
    if len(counted) < MIN_FOR_ERROR:
        return None
    off = 0.0
    for one in counted:
        others = [
            (
                similarity(one.peak.setting, one.peak.estimated_bytes, other.peak.setting, other.peak.estimated_bytes),
                other.peak.log_ratio,
            )
            for other in counted
            if other is not one
        ]
        off += one.weight * abs(math.expm1(_mean_ratio(others) - one.peak.log_ratio))
    return off / sum(each.weight for each in counted)
