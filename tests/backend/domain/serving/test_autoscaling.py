"""Autoscaling against traces of load, with a clock that the test moves: it follows a load, settles, and does not
flap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.serving.autoscaling import Load, ScalingRules, ScalingState, decide_replicas

LOOK_S, START_S, PLACES, ANSWER_S = 5.0, 30.0, 4, 8.0
RULES = ScalingRules(least=1, most=6, target_queue_s=2.0, cool_down_s=120.0, places=PLACES)


@dataclass
class Endpoint:
    """Replicas of four places and answers of eight seconds, one waiting line; a new replica is ready after 30 s."""

    rules: ScalingRules
    target: int = 1
    starting: list[float] = field(default_factory=list)
    line: list[float] = field(default_factory=list)
    open: list[float] = field(default_factory=list)
    changes: list[tuple[float, int, str]] = field(default_factory=list)

    def play(self, rate: Callable[[float], float], *, seconds: float) -> Endpoint:
        """Let requests arrive evenly at a rate a second that depends on the time."""
        state, owed, last_end = ScalingState(), 0.0, 0.0
        for tick in range(int(seconds)):
            now = float(tick)
            self.starting = [at for at in self.starting if at > now]
            ready = self.target - len(self.starting)
            self.open = [at for at in self.open if at > now]
            owed += rate(now)
            while owed >= 1:
                self.line, owed = [*self.line, now], owed - 1
            while self.line and len(self.open) < ready * PLACES:
                self.line.pop(0)
                self.open.append(now + ANSWER_S)
            last_end = now if self.open or self.line else last_end
            if tick % LOOK_S:
                continue
            queue_s = now - self.line[0] if self.line else 0.0
            load = Load(self.target, ready, queue_s, len(self.open) + len(self.line), now - last_end)
            scaling = decide_replicas(self.rules, load, state, now=now)
            state = scaling.state
            if scaling.replicas != self.target:
                assert scaling.reason
                self.changes.append((now, scaling.replicas, scaling.reason))
                self.starting += [now + START_S] * max(0, scaling.replicas - self.target)
                self.starting = self.starting[: scaling.replicas]
                self.target = scaling.replicas
        return self


@pytest.mark.parametrize("load", [0.3, 0.9, 1.4, 2.2])
def test_a_steady_load_settles_at_the_replicas_that_it_needs_and_stays_there(load: float) -> None:
    endpoint = Endpoint(RULES).play(lambda _: load, seconds=3600)
    needed = math.ceil(load * ANSWER_S / PLACES)
    assert needed <= endpoint.target <= needed + 1
    assert all(at < 1200 for at, *_ in endpoint.changes), endpoint.changes
    assert len(endpoint.changes) <= 6


def test_a_burst_that_ends_by_itself_adds_nothing() -> None:
    assert Endpoint(RULES).play(lambda now: 2.0 if now % 300 < 6 else 0.05, seconds=3600).changes == []


def test_a_day_of_load_goes_up_and_down_once() -> None:
    endpoint = Endpoint(RULES).play(lambda now: 0.2 + 1.8 * max(0.0, math.sin(math.pi * now / 7200)), seconds=9000)
    numbers = [1, *(number for _, number, _ in endpoint.changes)]
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(numbers, numbers[1:], numbers[2:], strict=False))
    assert max(numbers) >= 3
    assert turns <= 3, endpoint.changes
    assert endpoint.target == 1


def test_an_idle_endpoint_sleeps_after_its_minutes_and_not_under_an_open_request() -> None:
    rules = ScalingRules(sleep_after_s=600)
    (change,) = Endpoint(rules, target=3).play(lambda now: 0.1 if now < 300 else 0.0, seconds=1500).changes
    assert change[1:] == (0, "no request for 10 min")
    assert 900 <= change[0] <= 930
    assert Endpoint(rules).play(lambda _: 0.2, seconds=1500).changes == []
    assert Endpoint(ScalingRules(most=4)).play(lambda _: 0.0, seconds=3600).changes == [], (
        "without the option it never sleeps"
    )


def test_queues_are_judged_once_new_replicas_are_ready() -> None:
    state = ScalingState(busy_since=0.0)
    assert decide_replicas(RULES, Load(2, 1, 9.0, 30, 0), state, now=500.0).replicas == 2
    assert decide_replicas(RULES, Load(2, 2, 9.0, 30, 0), state, now=500.0).replicas == 4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, 60), st.integers(0, 200), st.floats(0, 4000)), max_size=30),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_the_number_stays_within_its_limits_whatever_is_seen(
    seen: list[tuple[int, float, int, float]], least: int, room: int
) -> None:
    rules = ScalingRules(least=least, most=least + room, places=PLACES)
    target, state = least, ScalingState()
    for number, (ready, queue_s, open_, idle_s) in enumerate(seen):
        scaling = decide_replicas(
            rules, Load(target, min(ready, target), queue_s, open_, idle_s), state, now=number * 50.0
        )
        assert rules.least <= scaling.replicas <= least + room
        assert (scaling.reason == "") == (scaling.replicas == target)
        target, state = scaling.replicas, scaling.state
