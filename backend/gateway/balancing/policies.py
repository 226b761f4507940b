"""Policies: which of the available replicas gets a request. Pure, so that tests can play out a day of traffic."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.serving.options import RoutingPolicy

SLACK = 2.0
"""Session affinity holds while its replica has at most this many requests of the present size more than the least busy
one.
"""


@dataclass(frozen=True)
class Candidate:
    """A replica as a policy sees it: its open work in tokens, and the turn at which it last got a request (0:
    never).
    """

    id: str
    outstanding: float
    last_turn: int


def choose(
    policy: str, candidates: Sequence[Candidate], *, cost: float, affinity: str, rng: random.Random
) -> Candidate:
    """Return the replica for a request of `cost` tokens. `affinity` is what requests of one conversation have in
    common, or empty.
    """
    if policy == RoutingPolicy.ROUND_ROBIN:
        return _longest_unused(candidates, rng)
    if policy == RoutingPolicy.POWER_OF_TWO and len(candidates) > 2:
        return _least_busy(rng.sample(list(candidates), 2), rng)
    least = _least_busy(candidates, rng)
    if policy == RoutingPolicy.SESSION_AFFINITY and affinity:
        home = max(candidates, key=lambda candidate: hashlib.sha256(f"{affinity}|{candidate.id}".encode()).digest())
        return home if home.outstanding <= least.outstanding + SLACK * cost else least
    return least


def _least_busy(candidates: Sequence[Candidate], rng: random.Random) -> Candidate:
    fewest = min(candidate.outstanding for candidate in candidates)
    return _longest_unused([candidate for candidate in candidates if candidate.outstanding == fewest], rng)


def _longest_unused(candidates: Sequence[Candidate], rng: random.Random) -> Candidate:
    """Ties go to the replica whose last request is longest ago: without load every replica gets its share exactly, not
    by luck.
    """
    oldest = min(candidate.last_turn for candidate in candidates)
    return rng.choice([candidate for candidate in candidates if candidate.last_turn == oldest])
