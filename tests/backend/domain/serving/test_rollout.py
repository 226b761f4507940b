"""Rollouts, played out from every start: they end, and never leave fewer replicas than there were to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.serving.rollout import Count, next_step

SMALL = st.integers(0, 5)


@given(
    old_ready=SMALL,
    old_starting=SMALL,
    target=st.integers(1, 5),
    surge=st.integers(0, 2),
    order=st.randoms(use_true_random=False),
)
def test_a_rollout_replaces_every_replica_and_keeps_enough_ready(old_ready, old_starting, target, surge, order) -> None:  # type: ignore[no-untyped-def]
    new, old = Count(), Count(starting=old_starting, ready=old_ready)
    enough = min(old_ready, target) - (0 if surge else 1)
    for _ in range(60):
        step = next_step(new, old, target=target, surge=surge)
        new = Count(starting=new.starting + step.add, ready=new.ready)
        old = Count(starting=old.starting - step.cancel_old, ready=old.ready - step.drain_old)
        assert new.ready + old.ready >= enough
        assert new.total + old.total <= max(target, old_ready + old_starting) + surge
        if new.ready == target and not old.total:
            break
        if new.starting and (order.random() < 0.7 or not old.starting):
            new = Count(starting=new.starting - 1, ready=new.ready + 1)
        elif old.starting:
            old = Count(starting=old.starting - 1, ready=old.ready + 1)
    assert (new, old) == (Count(ready=target), Count())


def test_an_old_replica_drains_only_after_a_new_one_is_ready() -> None:
    assert next_step(Count(starting=1), Count(ready=3), target=3).drain_old == 0
    assert next_step(Count(ready=1), Count(ready=3), target=3).drain_old == 1
    assert next_step(Count(starting=1), Count(starting=2), target=2).cancel_old == 0


def test_a_smaller_target_drops_replicas_and_a_larger_one_adds_them_all() -> None:
    assert next_step(Count(ready=4), Count(), target=1).drop == 3
    assert next_step(Count(ready=1), Count(), target=4).add == 3


def test_without_a_surge_one_old_replica_makes_room_first() -> None:
    step = next_step(Count(), Count(ready=2), target=2, surge=0)
    assert (step.drain_old, step.add) == (1, 1)
