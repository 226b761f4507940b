"""The split between the stable revision and a canary, before a replica is chosen."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from backend.gateway.directory import ReplicaAddress

STABLE = "stable"


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
