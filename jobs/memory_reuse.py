"""How a process that trains on a CPU keeps the memory that it has asked for once, instead of giving it back after every tensor."""

from __future__ import annotations

from collections.abc import Mapping

KEPT = "glibc.malloc.trim_threshold=68719476736"
BORROWED_FROM = "glibc.malloc.mmap_threshold=33554432"
"""glibc's own upper limit. Both are set, as setting one stops glibc from fitting the other to what is freed."""
HUGE_PAGES = "glibc.malloc.hugetlb=1"
TUNABLES = ":".join((HUGE_PAGES, KEPT, BORROWED_FROM))


def keeping_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which glibc keeps what tensors free for the next ones, in huge pages where the system offers them.

    A step frees and asks for the same hundreds of megabytes again; given back, every page of them is cleared and mapped anew each
    time. Other C libraries pay no attention; whoever has set tunables of their own keeps them. docs/benchmarks/pretraining.md.
    """
    return {"GLIBC_TUNABLES": TUNABLES, **environment}
