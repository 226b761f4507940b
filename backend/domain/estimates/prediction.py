"""What a run is expected to need, where each figure comes from and how far it may be off, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backend.domain.estimates.memory import MemoryEstimate
from backend.domain.wording import say_bytes, say_duration

Source = Literal["run", "probe", "calibrated", "formula", "unknown"]
TIGHT = 0.9


@dataclass(frozen=True)
class MemoryPrediction:
    """Peak memory of a training process. `num_bytes` is None where nothing is known: `source` is then `unknown`.

    `run` and `probe`: measured with this very setting; `error` is by how much runs differed from their probes here. `corrected`: the
    formula with what settings like it were measured to need; `error` is that of such predictions among the measurements themselves.
    `probes` and `runs` count what a figure or its error rests on.
    """

    num_bytes: int | None
    source: Source
    formula: MemoryEstimate | None
    error: float | None = None
    probes: int = 0
    runs: int = 0

    @property
    def at_most(self) -> int:
        """The figure with its error added, in bytes."""
        return round((self.num_bytes or 0) * (1 + (self.error or 0.0)))


@dataclass(frozen=True)
class TimePrediction:
    """Seconds of a run's steps, with those at the speed of its slower and faster steps where they were timed; evaluations not counted."""

    seconds: float
    low: float | None
    high: float | None
    tokens_per_s: float
    source: str


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to need on a device. `device_bytes` is what of its memory a run can have; None where it is not known."""

    device: str
    device_bytes: int | None
    memory: MemoryPrediction
    time: TimePrediction | None

    @property
    def fits(self) -> Literal["yes", "tight", "no", "unknown"]:
        """Whether the run fits the device: `tight` if it does only without its error, or takes nearly all."""
        needed = self.memory.num_bytes
        if needed is None or self.device_bytes is None:
            return "unknown"
        if needed > self.device_bytes:
            return "no"
        return "tight" if max(self.memory.at_most, needed / TIGHT) > self.device_bytes else "yes"


def say_memory(memory: MemoryPrediction) -> str:
    """Say a figure with its source: `5.1 GB, probe; formula said 4.7 GB`.

    Example:
        >>> say_memory(MemoryPrediction(5_100_000_000, "probe", None))
        '5.1 GB, probe'
    """
    if memory.num_bytes is None:
        return f"not known: {say_source(memory)}"
    between = " " if memory.source == "calibrated" and memory.error is not None else ", "
    return f"{say_bytes(memory.num_bytes)}{between}{say_source(memory)}"


def say_source(memory: MemoryPrediction) -> str:
    """Say where a figure comes from, with its error: `± 8 %, from 5 probes here; formula said 4.7 GB`."""
    if memory.num_bytes is None:
        return "the formula does not know this family, and a probe does"
    if memory.source == "formula":
        return "formula; not yet measured here"
    said = f"; formula said {say_bytes(memory.formula.total)}" if memory.formula else ""
    if memory.source == "calibrated":
        spread = f"± {_percent(memory.error)}, " if memory.error is not None else ""
        return f"{spread}from {_counted(memory)} here{said}"
    return f"{'measured in a run' if memory.source == 'run' else 'probe'}{said}"


def say_error(memory: MemoryPrediction) -> str:
    """Say what the error of a figure is, in a sentence; empty for one of which nothing is known."""
    if memory.source == "formula":
        return "How far the formula is off on this device shows after a probe."
    if memory.source == "calibrated" and memory.error is None:
        return "Too little is measured here to say how far this may be off."
    if memory.source == "calibrated":
        return f"Each measurement here, predicted from the others like it, was off by {_percent(memory.error)} on average."
    if memory.source == "probe" and memory.error is not None:
        what = "1 run" if memory.runs == 1 else f"{memory.runs} runs"
        return f"Runs needed {_percent(memory.error)} more or less than their probes here ({what})."
    return "No run with a probe of its own has finished here yet." if memory.source == "probe" else ""


def say_fit(prediction: Prediction) -> str:
    """Say whether the run fits the device."""
    if prediction.device_bytes is None:
        return f"How much memory {prediction.device} has is not known yet."
    room = f"{prediction.device}, which has {say_bytes(prediction.device_bytes)} for a run"
    return {
        "yes": f"Fits {room}.",
        "tight": f"May just fit {room}.",
        "no": f"Does not fit {room}.",
        "unknown": f"Whether it fits {room}, a probe can tell.",
    }[prediction.fits]


def say_time(time: TimePrediction | None) -> str:
    """Say how long the steps take: `about 12 min (10 min to 15 min)`."""
    if time is None:
        return "not known before a probe"
    between = say_spread(time)
    return f"about {say_duration(time.seconds)}{f' ({between})' if between else ''}"


def say_spread(time: TimePrediction) -> str:
    """Say between what the time of the steps may lie, as their own times varied; empty where they did not or were not timed."""
    if time.low is None or time.high is None or say_duration(time.low) == say_duration(time.high):
        return ""
    return f"{say_duration(time.low)} to {say_duration(time.high)}"


def _counted(memory: MemoryPrediction) -> str:
    parts = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in ((memory.probes, "probe"), (memory.runs, "run")) if count]
    return " and ".join(parts)


def _percent(share: float | None) -> str:
    return f"{max(1, round(100 * (share or 0.0)))} %"
