"""Load tests: the config, the requests to send, one record per request, and the summary of a level: percentiles with
intervals, rates, goodput, distributions, and the course over time. Pure.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from backend.domain.fields import OPTION_ONLY, setting, when
from backend.domain.serving.latency import bucket_of
from backend.domain.statistics.quantiles import median_difference, nearest_rank, quantile_interval
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


Interval = tuple[float, float]
MAX_POINTS = 60
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120)
STEADY_OVER = 3
"""Rates are taken over the steady time where it is at least this many times the longest request; else until the last
request ended.
"""


@dataclass(frozen=True)
class LatencySpread:
    """Percentiles in milliseconds by nearest rank, with 95 % intervals where independent values suffice."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    p50_interval_ms: Interval | None = None
    p95_interval_ms: Interval | None = None
    p99_interval_ms: Interval | None = None


@dataclass(frozen=True)
class LoadPoint:
    """One step of a level's course: seconds since the test began, rates, requests within the objectives, errors."""

    at_s: float
    tokens_per_s: float
    requests_per_s: float
    goodput_per_s: float
    errors: int


@dataclass(frozen=True)
class LoadSummary:
    """A level of a load test. `goodput_per_s`: requests a second that met both objectives (first token, and mean time
    between tokens).

    `itl` holds all times between tokens, `tpot` one mean per request, which are independent enough for intervals.
    `late_p99_ms` is how late the generator sent requests of an open loop. `ttft_counts` and `itl_counts` count by
    bucket of backend.domain.serving.latency.
    """

    requests: int
    errors: int
    duration_s: float
    requests_per_s: float
    tokens_per_s: float
    prompt_tokens: int
    completion_tokens: int
    goodput_per_s: float
    good_share: float
    ttft: LatencySpread | None
    itl: LatencySpread | None
    e2e: LatencySpread | None
    first_error: str = ""
    tpot: LatencySpread | None = None
    is_steady: bool = False
    late_p99_ms: float = 0.0
    ttft_counts: dict[str, int] = field(default_factory=dict)
    itl_counts: dict[str, int] = field(default_factory=dict)
    points: tuple[LoadPoint, ...] = ()


def summarise_load(
    runs: Sequence[LevelRun], *, slo_ttft_ms: float, slo_itl_ms: float, origin_s: float | None = None
) -> LoadSummary:
    """Return latencies of requests that succeeded, and rates over the steady time of one or several runs of a level."""
    counted = [record for run in runs for record in run.counted]
    done = [record for record in counted if not record.error]
    good = [record for record in done if is_good(record, slo_ttft_ms, slo_itl_ms)]
    windows = [_window(run) for run in runs]
    per_s = 1 / total if (total := math.fsum(end - start for start, end, _ in windows)) > 0 else 0.0
    inside = [
        r
        for run, (start, end, _) in zip(runs, windows, strict=True)
        for r in run.records
        if not r.error and start < r.end_s <= end
    ]
    tokens = math.fsum(
        _tokens_between(run.records, start, end) for run, (start, end, _) in zip(runs, windows, strict=True)
    )
    first_tokens, gaps = [r.ttft_s for r in done if r.ttft_s is not None], [gap for r in done for gap in r.gaps_s]
    origin = min((start for start, _, _ in windows), default=0.0) if origin_s is None else origin_s
    return LoadSummary(
        requests=len(counted),
        errors=len(counted) - len(done),
        duration_s=total,
        requests_per_s=len(inside) * per_s,
        tokens_per_s=tokens * per_s,
        prompt_tokens=sum(record.prompt_tokens for record in done),
        completion_tokens=sum(record.completion_tokens for record in done),
        goodput_per_s=sum(is_good(record, slo_ttft_ms, slo_itl_ms) for record in inside) * per_s,
        good_share=len(good) / len(counted) if counted else 0.0,
        ttft=spread(first_tokens, with_intervals=True),
        itl=spread(gaps),
        e2e=spread([record.end_s - record.start_s for record in done], with_intervals=True),
        first_error=next((record.error for record in counted if record.error), ""),
        tpot=spread([mean_gap_s(record) for record in done if record.gaps_s], with_intervals=True),
        is_steady=bool(windows) and all(is_steady for _, _, is_steady in windows),
        late_p99_ms=1000 * nearest_rank(sorted(record.late_s for record in counted), 0.99) if counted else 0.0,
        ttft_counts=_counts(first_tokens),
        itl_counts=_counts(gaps),
        points=tuple(_points(runs, origin, slo_ttft_ms=slo_ttft_ms, slo_itl_ms=slo_itl_ms)),
    )


def spread(values_s: Sequence[float], *, with_intervals: bool = False) -> LatencySpread | None:
    """Return percentiles by nearest rank: the value of rank ceil(q x n). None without values."""
    if not values_s:
        return None
    ordered = sorted(1000 * value for value in values_s)
    quantiles = (0.5, 0.95, 0.99)
    intervals = (
        [quantile_interval(ordered, quantile) for quantile in quantiles] if with_intervals else (None, None, None)
    )
    p50, p95, p99 = (nearest_rank(ordered, quantile) for quantile in quantiles)
    return LatencySpread(p50, p95, p99, *intervals)


def overhead(through: Sequence[LevelRun], direct: Sequence[LevelRun]) -> dict[str, object]:
    """Return what a gateway adds: the difference of medians of first token, mean time between tokens and whole request,
    in milliseconds, each with its 95 % interval (None where there are too few requests).
    """
    parts: dict[str, object] = {}
    for name, seconds_of in (("ttft", _first_token), ("itl", _mean_gap), ("e2e", _whole)):
        first, second = (
            sorted(seconds for record in _done(runs) if (seconds := seconds_of(record)) is not None)
            for runs in (through, direct)
        )
        estimate = median_difference(first, second)
        if estimate is not None:
            parts[f"{name}_p50_ms"] = 1000 * estimate[0]
            parts[f"{name}_interval_ms"] = [1000 * bound for bound in estimate[1:]]
        else:
            medians = [nearest_rank(values, 0.5) if values else None for values in (first, second)]
            known = medians[0] is not None and medians[1] is not None
            parts[f"{name}_p50_ms"] = 1000 * (medians[0] - medians[1]) if known else None  # type: ignore[operator]
            parts[f"{name}_interval_ms"] = None
    return parts


def is_good(record: RequestTiming, slo_ttft_ms: float, slo_itl_ms: float) -> bool:
    """Return whether a request met both objectives."""
    if record.error or record.ttft_s is None or record.ttft_s * 1000 > slo_ttft_ms:
        return False
    return not record.gaps_s or mean_gap_s(record) * 1000 <= slo_itl_ms


def mean_gap_s(record: RequestTiming) -> float:
    """Return a request's mean time between chunks."""
    return math.fsum(record.gaps_s) / len(record.gaps_s)


def _first_token(record: RequestTiming) -> float | None:
    return record.ttft_s


def _mean_gap(record: RequestTiming) -> float | None:
    return mean_gap_s(record) if record.gaps_s else None


def _whole(record: RequestTiming) -> float:
    return record.end_s - record.start_s


def _done(runs: Sequence[LevelRun]) -> Iterator[RequestTiming]:
    return (record for run in runs for record in run.counted if not record.error)


def _window(run: LevelRun) -> tuple[float, float, bool]:
    """Return the time over which rates are taken, and whether it is steady: without the ends of the last requests."""
    longest = max((record.end_s - record.start_s for record in run.counted), default=0.0)
    if run.end_s - run.start_s >= STEADY_OVER * longest > 0:
        return run.start_s, run.end_s, True
    return run.start_s, max([run.end_s, *(record.end_s for record in run.counted)]), False


def _token_times(record: RequestTiming) -> Iterator[float]:
    if record.ttft_s is None:
        return
    now = record.start_s + record.ttft_s
    yield now
    for gap in record.gaps_s:
        now += gap
        yield now


def _tokens_between(records: Sequence[RequestTiming], start: float, end: float) -> float:
    """Return the tokens that arrived in a time. A chunk of a request carries its tokens evenly."""
    total = 0.0
    for record in records:
        times = list(_token_times(record))
        if times and not record.error:
            total += record.completion_tokens * sum(start < time <= end for time in times) / len(times)
    return total


def _counts(values_s: Sequence[float]) -> dict[str, int]:
    counts = Counter(map(bucket_of, values_s))
    return {str(bucket): counts[bucket] for bucket in sorted(counts)}


def _points(runs: Sequence[LevelRun], origin: float, *, slo_ttft_ms: float, slo_itl_ms: float) -> Iterator[LoadPoint]:
    for run in runs:
        if not run.records:
            continue
        first, last = min(record.start_s for record in run.records), max(record.end_s for record in run.records)
        step = next((step for step in STEPS_S if (last - first) / step <= MAX_POINTS), (last - first) / MAX_POINTS)
        bins = [[0.0, 0, 0, 0] for _ in range(max(1, math.ceil((last - first) / step)))]
        for record in run.records:
            times = list(_token_times(record))
            for time in times:
                bins[min(len(bins) - 1, int((time - first) / step))][0] += record.completion_tokens / len(times)
            ended = bins[min(len(bins) - 1, int((record.end_s - first) / step))]
            ended[1] += not record.error
            ended[2] += is_good(record, slo_ttft_ms, slo_itl_ms)
            ended[3] += bool(record.error)
        for number, (tokens, done, good, errors) in enumerate(bins):
            width = min(step, last - first - number * step) or step
            if number and number == len(bins) - 1 and width < step / 2:
                continue  # a rate over a sliver of a step is noise
            at_s = first - origin + number * step + width / 2
            yield LoadPoint(round(at_s, 3), tokens / width, done / width, good / width, int(errors))
