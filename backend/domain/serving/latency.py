"""Counts of latencies by bucket, which can be added up, and percentiles of them.

Buckets grow by a factor of 1.08 from 0.1 ms, so a percentile read from them is within 4 % of the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

SMALLEST_S = 1e-4
GROWTH = 1.08
_LOG = math.log(GROWTH)
LAST = math.ceil(math.log(3600 / SMALLEST_S) / _LOG)


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket of a latency: 0 up to 0.1 ms, the last from an hour on."""
    if seconds <= SMALLEST_S:
        return 0
    return min(LAST, 1 + int(math.log(seconds / SMALLEST_S) / _LOG))


def bucket_middle_s(bucket: int) -> float:
    """Return the geometric middle of a bucket in seconds."""
    return SMALLEST_S * GROWTH ** (bucket - 0.5) if bucket else SMALLEST_S


def add_counts(counts: Iterable[Mapping[str, int] | Mapping[int, int]]) -> dict[int, int]:
    """Return the sum of several counts by bucket; their keys may be text, as JSON keeps them."""
    total: dict[int, int] = {}
    for each in counts:
        for bucket, number in each.items():
            total[int(bucket)] = total.get(int(bucket), 0) + number
    return total


def percentile_s(counts: Mapping[int, int], quantile: float) -> float | None:
    """Return a percentile in seconds: the middle of the bucket that holds the value of rank ceil(quantile x n). None without values."""
    rank = max(1, math.ceil(quantile * sum(counts.values())))
    passed = 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= rank:
            return bucket_middle_s(bucket)
    return None
