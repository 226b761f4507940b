"""Time and memory of an evaluation before it runs, from the rates of earlier ones, and the longest answer that a
context leaves room for. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.wording import plural

START_S = 6.0
"""Starting the process and loading a small network; a job's time holds it whatever the number of items."""
RUNTIME_BYTES = 440 << 20
"""Resident size of a process with torch and transformers beside the weights, measured on x86-64 Linux."""
BATCH_TOKENS = 4096
MIN_MEASUREMENTS = 3
"""Earlier evaluations from which the spread of their rates is the error; with fewer, a stated factor is."""


@dataclass(frozen=True)
class Timing:
    """Facts that an evaluation's time depends on; `seconds` is None before it has run.

    An endpoint's network is not known: `parameters` is 0, its rate is one of items alone, and only endpoints give one.
    `prompt_tokens` and `completion_tokens` are what an endpoint counted.
    """

    checkpoint: str
    benchmark: str
    kind: str
    items: int
    shots: int
    parameters: int
    seconds: float | None = None
    is_endpoint: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds with the range they may lie in; `basis` says what they were taken from."""

    seconds: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class MemoryRange:
    """Bytes with the range they may lie in."""

    bytes: int
    low: int
    high: int


_BASES = (
    ("of this checkpoint on this benchmark", 1.5),
    ("of other checkpoints on this benchmark", 3.0),
    ("on other benchmarks", 6.0),
)
"""Sources of a rate, nearest first, and the factor of its error where there are too few to measure it."""


def estimate_time(job: Timing, earlier: Sequence[Timing]) -> TimeEstimate | None:
    """Return an evaluation's expected time from the nearest earlier ones; None where nothing of its kind has run.

    A rate is seconds per item and parameter, and per block of few-shot examples. The median of the earlier rates gives
    the time; the range is the largest factor by which one of them misses the median of the others, or a stated factor
    where there are fewer than three.
    """
    comparable = [one for one in earlier if one.is_endpoint == job.is_endpoint]
    alike = [one for one in comparable if one.kind == job.kind and one.seconds is not None and one.items > 0]
    nearest = (
        [one for one in alike if (one.checkpoint, one.benchmark) == (job.checkpoint, job.benchmark)],
        [one for one in alike if one.benchmark == job.benchmark],
        alike,
    )
    for (basis, factor), measured in zip(_BASES, nearest, strict=True):
        if measured:
            rates = sorted(_rate(one) for one in measured)
            if len(rates) >= MIN_MEASUREMENTS:
                factor = max(1.1, *(_misses(rates, index) for index in range(len(rates))))
            seconds = _median(rates) * _work(job)
            return TimeEstimate(
                START_S + seconds,
                START_S + seconds / factor,
                START_S + seconds * factor,
                f"{plural(len(rates), 'earlier evaluation')}"
                f" {basis.replace('checkpoint', 'endpoint') if job.is_endpoint else basis}",
            )
    return None


def estimate_endpoint_tokens(job: Timing, earlier: Sequence[Timing]) -> tuple[float, float] | None:
    """Return the prompt and answer tokens that an endpoint will count, by the mean per item of the nearest earlier
    evaluation; None where no endpoint was asked this benchmark with as many examples.
    """
    alike = [
        one
        for one in earlier
        if one.is_endpoint and (one.benchmark, one.kind, one.shots) == (job.benchmark, job.kind, job.shots)
    ]
    counted = [one for one in alike if one.items > 0 and one.prompt_tokens]
    nearest = next((one for one in counted if one.checkpoint == job.checkpoint), counted[0] if counted else None)
    if nearest is None:
        return None
    return nearest.prompt_tokens / nearest.items * job.items, nearest.completion_tokens / nearest.items * job.items


def estimate_evaluation_memory(*, parameters: int, vocab_size: int | None) -> MemoryRange:
    """Return the peak memory of an evaluation: process, weights, and logits of one batch of 4,096 tokens.

    How many positions of a batch get logits depends on the benchmark: none to all of them, twice, is the range.

    Example:
        >>> estimate_memory(parameters=1_000_000, vocab_size=None).low
        465373280
    """
    low = RUNTIME_BYTES + 4 * parameters  # float32
    logits = 2 * 4 * BATCH_TOKENS * (vocab_size or 50_000)
    return MemoryRange(low + logits // 2, low, low + logits)


def _work(job: Timing) -> float:
    return job.items * (1 + job.shots) * max(1, job.parameters)


def _rate(one: Timing) -> float:
    return max((one.seconds or 0.0) - START_S, 0.05) / _work(one)


def _misses(rates: Sequence[float], index: int) -> float:
    others = _median([rate for place, rate in enumerate(rates) if place != index])
    return math.exp(abs(math.log(rates[index] / others)))


def _median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


STEP = 32
"""Prompts of about the same length get the same limit, so that they are answered in one batch."""


def is_capped(max_tokens: int, *, context: int) -> bool:
    """Return whether an answer of `max_tokens` may not fit beside its prompt: it is longer than half of the context."""
    return max_tokens > context // 2


def longest_answer(max_tokens: int, *, prompt: int, context: int) -> int:
    """Return how many tokens the answer to a prompt of this many tokens may have.

    Up to half of the context is always the answer's, and a prompt that needs it loses its beginning, as in
    lm-evaluation-harness. A longer answer gets what its prompt leaves, in steps of 32 tokens.

    Example:
        >>> [longest_answer(1280, prompt=prompt, context=512) for prompt in (12, 100, 400)]
        [480, 384, 256]
    """
    if not is_capped(max_tokens, context=context):
        return max_tokens
    half, room = max(1, context // 2), context - prompt
    return max_tokens if room >= max_tokens else max(half, room - room % STEP)
