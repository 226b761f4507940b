"""Load tests: the config, the requests to send, and one record per request. Pure. Summaries are in load_summary."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from backend.domain.fields import OPTION_ONLY, setting, when
from backend.domain.validation import is_stored

WORDS = (
    "river",
    "mill",
    "stone",
    "letter",
    "garden",
    "winter",
    "bread",
    "road",
    "lamp",
    "clock",
    "boat",
    "hill",
    "song",
    "rain",
    "field",
)
MAX_REQUESTS = 100_000
"""Requests of a level at most, so that their records fit into memory."""
Side = Literal["gateway", "replica"]


class LoadConfig(BaseModel):
    """A load test. Closed loop: each of `users` sends its next request when its last has ended. Open loop: `rate`
    requests a second arrive at random (Poisson), or at the seconds of `arrivals`, whether or not earlier ones have
    ended. A level has `requests`, or lasts `duration_s`. `prompt_words` and `max_tokens` are mixes, drawn evenly; a
    length that is repeated is drawn more often.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: tuple[int, ...] = setting(
        (1, 8),
        "Users",
        "Closed loop: numbers of users at once, such as 1,8; one level each.",
        min_length=1,
        max_length=16,
        used=(when("rate", None),),
    )
    requests: int = setting(32, "Requests per level", "Requests per level.", ge=1, le=MAX_REQUESTS, shown=OPTION_ONLY)
    duration_s: float | None = setting(
        None,
        "Seconds per level",
        "Seconds per level after the warm-up, instead of a number of requests.",
        gt=0,
        le=3600,
        option="--duration-s",
    )
    rate: float | None = setting(
        None,
        "Requests per second",
        "Open loop: requests a second, arriving at random (Poisson), instead of users.",
        gt=0,
        le=100_000,
    )
    arrivals: tuple[float, ...] = Field(default=(), max_length=MAX_REQUESTS)
    warmup: int = setting(
        4,
        "Warm-up requests",
        "First requests of a level, not counted; in a closed loop at least one per user.",
        ge=0,
        le=1000,
    )
    prompt_words: tuple[int, ...] = setting(
        (48,),
        "Words per prompt",
        "Words of a prompt; several are a mix, drawn evenly: 48, 48, 1500 draws 48 twice as often.",
        min_length=1,
        max_length=64,
    )
    max_tokens: tuple[int, ...] = setting(
        (32,), "Max new tokens", "Length limits of answers; several are a mix.", min_length=1, max_length=64
    )
    targets: tuple[Side, ...] = Field(default=("gateway", "replica"), min_length=1, max_length=2)
    slo_ttft_ms: float = setting(
        1000.0,
        "Objective: first token",
        "Objective for the first token; goodput counts requests within it.",
        gt=0,
        unit="ms",
    )
    slo_itl_ms: float = setting(
        100.0, "Objective: between tokens", "Objective for the mean time between tokens.", gt=0, unit="ms"
    )
    timeout_s: float = Field(default=300.0, gt=0)
    seed: int = setting(1, "Seed", "Seed of prompts and arrivals.", shown=OPTION_ONLY)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> LoadConfig:
        if is_stored(info):
            return self
        for name in ("users", "prompt_words", "max_tokens"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be 1 or more")
        if max(self.users) > 10_000 or max(self.prompt_words) > 200_000:
            raise ValueError("users must be at most 10,000 and prompt_words at most 200,000")
        if self.rate is not None and self.arrivals:
            raise ValueError("an open loop has a rate or arrivals, not both")
        if any(not 0 <= arrival <= 86_400 for arrival in self.arrivals):
            raise ValueError("arrivals are seconds from the start, from 0 to 86,400")
        if self.rate is not None and self.duration_s is not None and self.rate * self.duration_s > MAX_REQUESTS:
            raise ValueError(f"rate x duration_s must be at most {MAX_REQUESTS:,} requests")
        return self

    @property
    def is_open(self) -> bool:
        """Return whether requests arrive by time."""
        return self.rate is not None or bool(self.arrivals)

    @property
    def levels(self) -> tuple[int, ...]:
        """Return the numbers of users; of an open loop, a zero."""
        return (0,) if self.is_open else self.users

    def part(self, share: float) -> LoadConfig:
        """Return a config with a share of each level's requests or seconds. Arrivals are whole in each part."""
        duration = None if self.duration_s is None or self.arrivals else self.duration_s * share
        return self.model_copy(
            update={"requests": max(1, round(self.requests * share)), "duration_s": duration or self.duration_s}
        )


@dataclass(frozen=True)
class PlannedRequest:
    """One request to send: its prompt, its length limit, and when it arrives in an open loop."""

    prompt: str
    max_tokens: int
    arrival_s: float = 0.0


@dataclass(frozen=True)
class RequestTiming:
    """One request as the client measured it, in seconds. `start_s` is when it was due: in an open loop the planned
    arrival, so that a generator that is late makes no latency smaller; `late_s` is how late. `gaps_s` are the times
    between chunks that carried tokens.
    """

    start_s: float
    end_s: float
    ttft_s: float | None
    gaps_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    is_warmup: bool = False
    late_s: float = 0.0


@dataclass(frozen=True)
class LevelRun:
    """The requests of one level against one target. From `start_s` to `end_s` the load was as configured: after the
    warm-up, and before the last requests end alone.
    """

    records: tuple[RequestTiming, ...]
    start_s: float
    end_s: float

    @property
    def counted(self) -> tuple[RequestTiming, ...]:
        """Return the requests after the warm-up."""
        return tuple(record for record in self.records if not record.is_warmup)


def prompts_of_length(config: LoadConfig, *, words: int, count: int) -> list[str]:
    """Return prompts of a test as if all had this length."""
    alike = config.model_copy(update={"prompt_words": (words,), "arrivals": ()})
    return [ask.prompt for ask in islice(iterate_asks(alike), count)]


def iterate_asks(config: LoadConfig, *, phase: int = 0) -> Iterator[PlannedRequest]:
    """Yield requests without end, or one per arrival. Words depend on `phase` and lengths do not: every phase has the
    same mix, and no prompt's beginning is in a cache.
    """
    lengths, words = random.Random(config.seed), random.Random(f"{config.seed}:{phase}")
    arrivals, now = iter(config.arrivals), 0.0
    while True:
        num_words, max_tokens = lengths.choice(config.prompt_words), lengths.choice(config.max_tokens)
        if config.arrivals:
            arrival = next(arrivals, None)
            if arrival is None:
                return
            now = arrival
        elif config.rate is not None:
            now += lengths.expovariate(config.rate)
        yield PlannedRequest(" ".join(words.choices(WORDS, k=num_words)), max_tokens, now)
