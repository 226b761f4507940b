"""Load tests: the config, one record per request, and their summary. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

WORDS = ("river", "mill", "stone", "letter", "garden", "winter", "bread", "road", "lamp", "clock", "boat", "hill", "song", "rain", "field")


class LoadConfig(BaseModel):
    """A load test. Closed loop: each of `users` sends its next request when its last has ended. Open loop: `rate` requests a second arrive
    at random (Poisson), or at the seconds of `arrivals`, whether or not earlier ones have ended. `prompt_words` and `max_tokens` are
    mixes, drawn evenly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: tuple[int, ...] = Field(default=(1, 8), min_length=1, max_length=16)
    requests: int = Field(default=32, ge=1, le=100_000, description="Requests per level.")
    rate: float | None = Field(default=None, gt=0, le=100_000)
    arrivals: tuple[float, ...] = Field(default=(), max_length=100_000)
    warmup: int = Field(default=4, ge=0, le=1000, description="Requests before each level, not counted.")
    prompt_words: tuple[int, ...] = Field(default=(48,), min_length=1)
    max_tokens: tuple[int, ...] = Field(default=(32,), min_length=1)
    slo_ttft_ms: float = Field(default=1000.0, gt=0)
    slo_itl_ms: float = Field(default=100.0, gt=0)
    timeout_s: float = Field(default=300.0, gt=0)
    seed: int = 1

    @model_validator(mode="after")
    def _positive(self) -> LoadConfig:
        for name in ("users", "prompt_words", "max_tokens"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be 1 or more")
        return self

    @property
    def is_open(self) -> bool:
        """Return whether requests arrive by time."""
        return self.rate is not None or bool(self.arrivals)


@dataclass(frozen=True)
class Ask:
    """One request to send: its prompt, its length limit, and when it arrives in an open loop."""

    prompt: str
    max_tokens: int
    arrival_s: float = 0.0


@dataclass(frozen=True)
class Record:
    """One request as the client measured it, in seconds. `gaps_s` are the times between chunks that carried tokens."""

    start_s: float
    end_s: float
    ttft_s: float | None
    gaps_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """Percentiles in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class LoadSummary:
    """A level of a load test. `goodput_per_s`: requests a second that met both objectives (first token, and mean time between tokens)."""

    requests: int
    errors: int
    duration_s: float
    requests_per_s: float
    tokens_per_s: float
    prompt_tokens: int
    completion_tokens: int
    goodput_per_s: float
    good_share: float
    ttft: Spread | None
    itl: Spread | None
    e2e: Spread | None
    first_error: str = ""


def make_asks(config: LoadConfig, *, count: int, seed: int) -> list[Ask]:
    """Return requests with prompts of random words, so that no two share a long prefix, and their arrivals."""
    rng = random.Random(seed)
    asks, now = [], 0.0
    for number in range(count):
        prompt = " ".join(rng.choice(WORDS) for _ in range(rng.choice(config.prompt_words)))
        if config.arrivals:
            now = config.arrivals[number]
        elif config.rate is not None:
            now += rng.expovariate(config.rate)
        asks.append(Ask(prompt, rng.choice(config.max_tokens), now))
    return asks


def summarise(records: Sequence[Record], *, slo_ttft_ms: float, slo_itl_ms: float) -> LoadSummary:
    """Return latencies of the requests that succeeded, and rates over the time from the first start to the last end."""
    done = [record for record in records if not record.error]
    duration = max((r.end_s for r in records), default=0.0) - min((r.start_s for r in records), default=0.0)
    good = sum(_is_good(record, slo_ttft_ms, slo_itl_ms) for record in done)
    per_s = 1 / duration if duration > 0 else 0.0
    completion = sum(record.completion_tokens for record in done)
    return LoadSummary(
        requests=len(records),
        errors=len(records) - len(done),
        duration_s=duration,
        requests_per_s=len(done) * per_s,
        tokens_per_s=completion * per_s,
        prompt_tokens=sum(record.prompt_tokens for record in done),
        completion_tokens=completion,
        goodput_per_s=good * per_s,
        good_share=good / len(records) if records else 0.0,
        ttft=spread([record.ttft_s for record in done if record.ttft_s is not None]),
        itl=spread([gap for record in done for gap in record.gaps_s]),
        e2e=spread([record.end_s - record.start_s for record in done]),
        first_error=next((record.error for record in records if record.error), ""),
    )


def spread(values_s: Sequence[float]) -> Spread | None:
    """Return percentiles by nearest rank: the value of rank ceil(q x n). None without values."""
    if not values_s:
        return None
    ordered = sorted(values_s)
    return Spread(*(1000 * ordered[max(1, math.ceil(quantile * len(ordered))) - 1] for quantile in (0.5, 0.95, 0.99)))


def _is_good(record: Record, slo_ttft_ms: float, slo_itl_ms: float) -> bool:
    if record.ttft_s is None or record.ttft_s * 1000 > slo_ttft_ms:
        return False
    return not record.gaps_s or math.fsum(record.gaps_s) / len(record.gaps_s) * 1000 <= slo_itl_ms
