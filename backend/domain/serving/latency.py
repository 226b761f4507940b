"""Counts of latencies by bucket, which can be added up, and percentiles of them.

Buckets grow by a factor of 1.08 from 0.1 ms, so a percentile read from them is within 4 % of the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

MIN_S = 1e-4
GROWTH = 1.08
_LOG = math.log(GROWTH)
MIN_DECODE_S = 0.01
MAX_TOKENS_PER_S = 10_000.0
"""For one answer; a higher rate means that it was buffered on its way, and measures the network."""
Counts = Mapping[int, int]
"""Number of latencies by bucket."""
LAST = math.ceil(math.log(3600 / MIN_S) / _LOG)


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a latency: 0 up to 0.1 ms, the last from an hour on."""
    if seconds <= MIN_S:
        return 0
    return min(LAST, 1 + int(math.log(seconds / MIN_S) / _LOG))


def bucket_middle_s(bucket: int) -> float:
    """Return the geometric middle of a bucket in seconds."""
    return MIN_S * GROWTH ** (bucket - 0.5) if bucket else MIN_S


def add_counts(counts: Iterable[Counts]) -> dict[int, int]:
    """Return the sum of several counts by bucket."""
    total: dict[int, int] = {}
    for each in counts:
        for bucket, number in each.items():
            total[bucket] = total.get(bucket, 0) + number
    return total


def percentile_s(counts: Mapping[int, int], quantile: float) -> float | None:
    """Return a percentile in seconds: the middle of the bucket of rank ceil(quantile x n). None without values."""
    rank = max(1, math.ceil(quantile * sum(counts.values())))
    passed = 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= rank:
            return bucket_middle_s(bucket)
    return None


def decode_rate(num_tokens: int, seconds: float) -> float | None:
    """Return the tokens a second of an answer after its first token, for that many tokens in that time; None where they
    arrived together, within 10 ms or faster than any network generates, so that their times don't tell the rate.

    >>> decode_rate(50, 2.0)
    25.0
    """
    if num_tokens < 1 or seconds < MIN_DECODE_S or num_tokens > seconds * MAX_TOKENS_PER_S:
        return None
    return round(num_tokens / seconds, 2)
