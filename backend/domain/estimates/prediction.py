"""Predict memory and time of a run, each figure with its source and error.

Memory measured in similar settings calibrates the formula, with a leave-one-out error. The log ratio of measured to
estimated bytes is averaged over the settings, weighted by similarity and shrunk towards zero by a prior (kernel
regression: Nadaraya 1964, doi 10.1137/1109020). What is off at a smaller setting counts in bytes, as libraries and
buffers don't grow with the network; at a larger one it counts in proportion. So runs of a tiny network, however many,
hardly change the estimate of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import mean
from typing import Literal

from backend.domain.estimates.memory import MemoryEstimate, estimate_memory
from backend.domain.estimates.setting import TrainingSetting
from backend.domain.wording import format_bytes, format_duration

Source = Literal["run", "probe", "calibrated", "formula", "unknown"]
TIGHT = 0.9


@dataclass(frozen=True)
class MemoryPrediction:
    """Peak memory of a training process. `num_bytes` is None if `source` is `unknown`. `run` and `probe`: measured with
    this exact setting; `error` is the difference between runs and their probes. `corrected`: the formula calibrated on
    similar settings; `error` is leave-one-out. `probes` and `runs` count the measurements behind a figure or its error.
    """

    num_bytes: int | None
    source: Source
    formula: MemoryEstimate | None
    error: float | None = None
    probes: int = 0
    runs: int = 0

    @property
    def at_most(self) -> int:
        """Bytes with the error added."""
        return round((self.num_bytes or 0) * (1 + (self.error or 0.0)))


@dataclass(frozen=True)
class TimePrediction:
    """Seconds of a run's steps without evaluations. `low` and `high` are by the 10th and 90th percentile of step times
    of a measured setting, else by the leave-one-out error of the rate at other settings.
    """

    seconds: float
    low: float | None
    high: float | None
    tokens_per_s: float
    source: str


@dataclass(frozen=True)
class Prediction:
    """Predicted needs of a run on a device. `device_bytes` is the memory available to a run, None if unknown;
    `epoch_sequences` how many sequences a run packed the same rows into.
    """

    device: str
    device_bytes: int | None
    memory: MemoryPrediction
    time: TimePrediction | None
    epoch_sequences: int | None = None

    @property
    def fits(self) -> Literal["yes", "tight", "no", "unknown"]:
        """Return whether the run fits the device: `tight` if only without the error, or over 90 % of it."""
        needed = self.memory.num_bytes
        if needed is None or self.device_bytes is None:
            return "unknown"
        if needed > self.device_bytes:
            return "no"
        return "tight" if max(self.memory.at_most, needed / TIGHT) > self.device_bytes else "yes"


def format_memory(memory: MemoryPrediction) -> str:
    """Format a memory figure with its source: `5.1 GB, measured by a probe; formula estimate 4.7 GB`.

    Example:
        >>> format_memory(MemoryPrediction(5_100_000_000, "probe", None))
        '5.1 GB, measured by a probe'
    """
    if memory.num_bytes is None:
        return f"unknown: {describe_source(memory)}"
    between = " " if memory.source == "calibrated" and memory.error is not None else ", "
    return f"{format_bytes(memory.num_bytes)}{between}{describe_source(memory)}"


def describe_source(memory: MemoryPrediction) -> str:
    """Format the source of a figure, with its error: `± 8 %, calibrated on 5 probes; formula estimate 4.7 GB`."""
    if memory.num_bytes is None:
        return "no formula for this family; a probe measures it"
    if memory.source == "formula":
        return "formula estimate, not measured here yet"
    formula = f"; formula estimate {format_bytes(memory.formula.total)}" if memory.formula else ""
    if memory.source == "calibrated":
        spread = f"± {_percent(memory.error)}, " if memory.error is not None else ""
        return f"{spread}calibrated on {_counted(memory)}{formula}"
    return f"measured {'in a run' if memory.source == 'run' else 'by a probe'}{formula}"


def describe_error(memory: MemoryPrediction) -> str:
    """Describe a figure's error in a sentence; empty if there is no figure."""
    if memory.source == "formula":
        return "The formula's error on this device is known after a probe."
    if memory.source == "calibrated" and memory.error is None:
        return "There are too few measurements here to estimate the error."
    if memory.source == "calibrated":
        return (
            f"Mean error of {_percent(memory.error)} when each measurement here is predicted from the others"
            " (leave-one-out)."
        )
    if memory.source == "probe" and memory.error is not None:
        return (
            f"Runs differed by {_percent(memory.error)} from their probes here"
            f" ({'1 run' if memory.runs == 1 else f'{memory.runs} runs'})."
        )
    return "No run with a probe of its own has finished here yet." if memory.source == "probe" else ""


def describe_fit(prediction: Prediction) -> str:
    """Describe whether the run fits the device."""
    if prediction.device_bytes is None:
        return f"The memory of {prediction.device} is not known yet."
    room = f"{prediction.device}, which has {format_bytes(prediction.device_bytes)} for a run"
    return {
        "yes": f"Fits {room}.",
        "tight": f"May just fit {room}.",
        "no": f"Does not fit {room}.",
        "unknown": f"A probe can tell whether it fits {room}.",
    }[prediction.fits]


def format_run_time(time: TimePrediction | None) -> str:
    """Format the time of the steps: `about 12 min (10 min to 15 min)`."""
    if time is None:
        return "unknown before a probe"
    between = format_time_range(time)
    return f"about {format_duration(time.seconds)}{f' ({between})' if between else ''}"


def format_time_range(time: TimePrediction) -> str:
    """Format the range of the time of the steps by measured step times; empty without one."""
    if time.low is None or time.high is None or format_duration(time.low) == format_duration(time.high):
        return ""
    return f"{format_duration(time.low)} to {format_duration(time.high)}"


def _counted(memory: MemoryPrediction) -> str:
    parts = [
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in ((memory.probes, "probe"), (memory.runs, "run"))
        if count
    ]
    return " and ".join(parts)


def _percent(share: float | None) -> str:
    return f"{max(1, round(100 * (share or 0.0)))} %"


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

    def log_ratio(self, estimated_bytes: int) -> float:
        """Return the logarithm of measured over estimated that this peak predicts for a setting of this estimate."""
        scale = max(1.0, estimated_bytes / max(self.estimated_bytes, 1))
        ratio = self.measured_bytes / max(self.estimated_bytes, 1)
        return math.log(max(1 + (ratio - 1) / scale, 1e-9))


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
class _Measured:
    """A setting, weighted by its similarity to the one that is estimated, with its measurements."""

    weight: float
    peaks: tuple[MeasuredPeak, ...]

    def log_ratio(self, estimated_bytes: int) -> float:
        return mean(peak.log_ratio(estimated_bytes) for peak in self.peaks)


def calibrate(setting: TrainingSetting, estimated_bytes: int, measured: Sequence[MeasuredPeak]) -> Calibration:
    """Return the calibration of an estimate by measurements on the same device; the identity if none is similar.

    Measurements of one setting count as one.
    """
    by_setting: dict[TrainingSetting, list[int]] = {}
    for index, peak in enumerate(measured):
        by_setting.setdefault(peak.setting, []).append(index)
    weights = {
        other: similarity(setting, estimated_bytes, other, measured[indices[0]].estimated_bytes)
        for other, indices in by_setting.items()
    }
    similar = sorted(
        (other for other in by_setting if weights[other] >= MIN_SIMILARITY), key=lambda other: -weights[other]
    )
    used = similar[:MAX_NEIGHBORS]
    if not used:
        return Calibration()
    counted = [_Measured(weights[other], tuple(measured[index] for index in by_setting[other])) for other in used]
    factor = math.exp(_mean_ratio([(each.weight, each.log_ratio(estimated_bytes)) for each in counted]))
    return Calibration(factor, _error(counted), tuple(index for other in used for index in by_setting[other]))


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


def _error(counted: Sequence[_Measured]) -> float | None:
    """Return the mean error, weighted by similarity, of predicting each setting from the others; None for too few."""
    if len(counted) < MIN_FOR_ERROR:
        return None
    off = 0.0
    for one in counted:
        peak = one.peaks[0]
        others = [
            (
                similarity(peak.setting, peak.estimated_bytes, other.peaks[0].setting, other.peaks[0].estimated_bytes),
                other.log_ratio(peak.estimated_bytes),
            )
            for other in counted
            if other is not one
        ]
        off += one.weight * abs(math.expm1(_mean_ratio(others) - one.log_ratio(peak.estimated_bytes)))
    return off / sum(each.weight for each in counted)
