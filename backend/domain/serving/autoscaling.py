"""Number of replicas of an endpoint, from the waits of its requests: up after a steady queue, down after quiet, to none
after idleness.

Pure: the state between two looks is a value that the caller keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

HOLD_S = 20.0
"""A queue lasts this long before replicas are added, so that a burst that ends by itself adds none."""
FULLNESS = 0.7
"""Replicas are taken away only where the open requests fill at most this share of the places that stay."""
GROWTH = 2
"""At most this many times as many replicas in one step."""


@dataclass(frozen=True)
class ScalingRules:
    """Limits of the number of replicas: `most` None keeps the number as it is, `sleep_after_s` None never sleeps."""

    least: int = 1
    most: int | None = None
    target_queue_s: float = 2.0
    cool_down_s: float = 300.0
    sleep_after_s: float | None = None
    places: int = 16

    @property
    def is_active(self) -> bool:
        """Return whether the number of replicas changes by itself."""
        return self.most is not None or self.sleep_after_s is not None

    def describe(self) -> str:
        """Say in one line how the number of replicas changes; empty where it does not."""
        parts = []
        if self.most is not None:
            parts.append(f"{self.least} to {self.most} replicas, one more above {self.target_queue_s:g} s of queue")
        if self.sleep_after_s is not None:
            parts.append(f"sleeps after {self.sleep_after_s / 60:g} min without a request")
        return " · ".join(parts)


@dataclass(frozen=True)
class Load:
    """One look at an endpoint: replicas asked for and ready, the longest wait of a request, open requests, and the
    seconds since the last one ended (0 while any is open).
    """

    target: int
    ready: int
    queue_s: float
    open: int
    idle_s: float


class ScalingState(BaseModel):
    """Between two looks: since when requests wait too long, and since when fewer replicas would do (epoch seconds)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    busy_since: float | None = None
    calm_since: float | None = None


@dataclass(frozen=True)
class Scaling:
    """The number of replicas from now on, why it changes (empty where it does not), and the state for the next look."""

    replicas: int
    reason: str
    state: ScalingState


def decide_replicas(rules: ScalingRules, load: Load, state: ScalingState, *, now: float) -> Scaling:
    """Return the number of replicas of an endpoint that is awake.

    >>> decide_replicas(ScalingRules(most=4), Load(1, 1, 3.2, 20, 0), ScalingState(busy_since=100.0), now=130.0).reason
    'queue 3.2 s for 30 s'
    """
    if rules.sleep_after_s is not None and load.idle_s >= rules.sleep_after_s:
        return Scaling(0, f"no request for {_duration(load.idle_s)}", ScalingState())
    if rules.most is None:
        return Scaling(load.target, "", ScalingState())
    if not rules.least <= load.target <= rules.most:
        bounded = min(max(load.target, rules.least), rules.most)
        return Scaling(bounded, f"between {rules.least} and {rules.most} replicas", ScalingState())
    if load.ready < load.target:
        # replicas that start will change the queue; it is judged afterwards
        return Scaling(load.target, "", ScalingState())
    if load.queue_s > rules.target_queue_s:
        return _busy(rules, load, state, now=now)
    fewer = load.target - 1
    is_calm = load.queue_s == 0 and fewer >= rules.least and load.open <= FULLNESS * fewer * rules.places
    if not is_calm:
        return Scaling(load.target, "", ScalingState())
    since = now if state.calm_since is None else state.calm_since
    if now - since < rules.cool_down_s:
        return Scaling(load.target, "", ScalingState(calm_since=since))
    return Scaling(fewer, f"no queue for {_duration(now - since)}", ScalingState())


def _busy(rules: ScalingRules, load: Load, state: ScalingState, *, now: float) -> Scaling:
    since = now if state.busy_since is None else state.busy_since
    waiting = ScalingState(busy_since=since)
    if now - since < HOLD_S or load.target == rules.most:
        return Scaling(load.target, "", waiting)
    ratio = min(GROWTH, load.queue_s / rules.target_queue_s)
    more = min(math.ceil(load.target * ratio), rules.most or load.target)
    return Scaling(
        max(more, load.target + 1), f"queue {load.queue_s:.1f} s for {_duration(now - since)}", ScalingState()
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
