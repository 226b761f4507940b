"""Tune glibc's allocator for CPU training, so that tensors' freed memory is reused, not returned to the system."""

from __future__ import annotations

from collections.abc import Mapping

TRIM_THRESHOLD = "glibc.malloc.trim_threshold=68719476736"
MMAP_THRESHOLD = "glibc.malloc.mmap_threshold=33554432"
"""glibc's upper limit. Both thresholds are set, as setting one stops glibc from adapting the other."""
HUGE_PAGES = "glibc.malloc.hugetlb=1"
TUNABLES = ":".join((HUGE_PAGES, TRIM_THRESHOLD, MMAP_THRESHOLD))


def with_memory_reuse(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which glibc keeps freed memory for reuse, in huge pages if the system has them.

    Every step frees and allocates the same hundreds of megabytes; returned to the system, each page is cleared and
    mapped again every time. Other C libraries ignore the setting, and tunables that are already set are kept. See
    docs/benchmarks/pretraining.md.
    """
    return {"GLIBC_TUNABLES": TUNABLES, **environment}
