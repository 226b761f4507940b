"""Choice of a request's replica: its variant, its weight, and the policy among those available. Pure, so that tests
can play out a day of traffic.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.serving.options import RoutingPolicy
from backend.domain.serving.protocol import GenerateRequest
from backend.gateway.directory import ReplicaAddress

STABLE = "stable"
MAX_COUNTED = 4096
SHARED_CHARACTERS = 500
SLACK = 2.0
"""Session affinity holds while its replica has at most this many requests of the present size more than the least busy
one.
"""


def order_by_variant(
    replicas: Sequence[ReplicaAddress], *, sticky: str, rng: random.Random
) -> list[list[ReplicaAddress]]:
    """Return the replicas of the variant that a request belongs to, then the others, which take over where the first
    have none left.

    With `sticky` (a user or a key) the same requests go to a canary every time, and stay there as its percentage grows;
    without, chance decides.
    """
    canary = [replica for replica in replicas if replica.variant != STABLE]
    stable = [replica for replica in replicas if replica.variant == STABLE]
    if not canary:
        return [stable]
    drawn = _draw(canary[0].variant, sticky) if sticky else rng.uniform(0, 100)
    return [canary, stable] if drawn < canary[0].percent else [stable, canary]


def _draw(variant: str, sticky: str) -> float:
    """Return a number from 0 to 100 that is always the same for a variant and a user."""
    digest = hashlib.sha256(f"{variant}|{sticky}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def weigh(request: GenerateRequest) -> float:
    """Return a request's weight: about the tokens of its prompt, and those that it may generate."""
    return 1.0 + request.estimate_prompt() + min(request.most_new_tokens, MAX_COUNTED * request.num_choices)


def conversation_of(request: GenerateRequest, sticky: str) -> str:
    """Return what the requests of one conversation have in common: who asks, and how the prompt begins."""
    if request.messages:
        begin = "|".join(message.content for message in request.messages[:2] if message.role != "assistant")
    else:
        begin = request.prompt or ",".join(map(str, (request.token_ids or ())[:64]))
    return f"{sticky}|{begin[:SHARED_CHARACTERS]}"


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
