"""A load test's level: percentiles with intervals, rates, goodput, distributions, and the course over time. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from backend.domain.serving.latency import bucket_of
from backend.domain.serving.load import LevelRun, RequestTiming
from backend.domain.statistics.quantiles import median_difference, nearest_rank, quantile_interval

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
