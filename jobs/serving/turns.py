"""Turns between tenants: whose waiting request is next, and how many places of a replica one tenant may hold.

A tenant is an account of the gateway's clients, or where no key is needed an address with the user or job that it
names, by a name without meaning. Requests that reach a replica without one share the empty name, which has no limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def in_turn(waiting: Iterable[tuple[str, T]], *, running: Counter[str], most: int) -> list[T]:
    """Return the waiting requests, given by tenant in order of arrival, in the order in which they get places.

    The tenant with the fewest requests at work is next, counting those that come before; among equals, who came first.
    A tenant with `most` at work waits: the place that it leaves is for the first request of another.

    >>> in_turn([("a", 1), ("a", 2), ("b", 3)], running=Counter(a=1), most=15)
    [3, 1, 2]
    """
    ahead = Counter(running)
    ranked: list[tuple[int, T]] = []
    for tenant, request in waiting:
        if not tenant or ahead[tenant] < most:
            ranked.append((ahead[tenant], request))
        ahead[tenant] += 1
    return [request for _, request in sorted(ranked, key=lambda pair: pair[0])]


def most_running(max_running: int) -> int:
    """Return the requests that one tenant may have at work at once: all but one place, where there are several."""
    return max(1, max_running - 1)


def most_open(max_running: int, max_waiting: int) -> int:
    """Return the requests that one tenant may have at work and waiting: a quarter of the queue is for others."""
    return max_running + max_waiting - max_waiting // 4
