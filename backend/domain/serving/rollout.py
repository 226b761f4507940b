"""A rollout's next step, from the numbers of replicas alone.

New replicas start `surge` above the target. As one becomes ready (it has generated a token), an old one drains: it gets
no new requests and ends when its open answers have. So no fewer replicas than the target answer at any time, once there
are that many.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """Replicas that start and replicas that answer."""

    starting: int = 0
    ready: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.starting + self.ready


@dataclass(frozen=True)
class RolloutStep:
    """Replicas of the new revision to add or drop, and of older revisions to cancel (starting) or to drain (ready)."""

    add: int = 0
    drop: int = 0
    cancel_old: int = 0
    drain_old: int = 0


def next_step(new: Count, old: Count, *, target: int, surge: int = 1) -> RolloutStep:
    """Return what brings the new revision closer to `target` replicas and older ones to none.

    >>> next_step(Count(), Count(ready=3), target=3)
    Step(add=1, drop=0, cancel_old=0, drain_old=0)
    >>> next_step(Count(ready=1), Count(ready=3), target=3)
    Step(add=1, drop=0, cancel_old=0, drain_old=1)
    """
    if new.total > target:
        return RolloutStep(drop=new.total - target)
    cancel = old.starting if new.ready or not surge else 0
    if new.ready or not surge:
        needed = max(0, target - new.ready - (0 if surge else 1))
        drain = max(0, old.ready - needed)
    else:
        drain = 0
    left = old.total - cancel - drain
    room = max(target, left) + surge - new.total - left
    return RolloutStep(add=max(0, min(target - new.total, room)), cancel_old=cancel, drain_old=drain)
