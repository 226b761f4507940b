"""Checkpoints that wait for their suites are not removed, within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.training.holds import MAX_HELD, choose_removed

STEPS = st.lists(st.integers(1, 500), unique=True, max_size=30).map(sorted)


def test_a_held_checkpoint_stays_and_an_older_one_goes() -> None:
    assert choose_removed([10, 20, 30, 40], keep_last=1, best=None, held=[20]) == [10, 30]
    assert choose_removed([10, 20, 30, 40], keep_last=2, best=10) == [20]
    assert choose_removed([10, 20, 30, 40], keep_last=1, best=None, used=[10, 30]) == [20]


def test_only_the_newest_of_many_held_ones_wait() -> None:
    steps = list(range(1, MAX_HELD + 6))
    assert choose_removed(steps, keep_last=1, best=None, held=steps) == [1, 2, 3, 4]


@given(steps=STEPS, held=STEPS, used=STEPS, keep_last=st.integers(1, 5), best=st.none() | st.integers(1, 500))
def test_the_last_the_best_and_those_in_use_are_never_removed(
    steps: list[int], held: list[int], used: list[int], keep_last: int, best: int | None
) -> None:
    removed = choose_removed(steps, keep_last=keep_last, best=best, held=held, used=used)
    assert not {*removed} & {*steps[-keep_last:], best, *used}
    assert len(steps) - len(removed) <= keep_last + 1 + MAX_HELD + len(used)
