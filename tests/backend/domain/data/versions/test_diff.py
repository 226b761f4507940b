"""Differences of multisets, against counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.data.versions.diff import pair_by_key, surplus

rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=14)


def numbers(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Keys, and hashes that differ wherever key or answer differ."""
    return numbers([key for key, _ in pairs]), numbers([10 * key + answer for key, answer in pairs])


@given(before=rows, after=rows)
@settings(max_examples=200, deadline=None)
def test_surplus_is_the_difference_of_multisets(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> None:
    _, old = split(before)
    _, new = split(after)
    marks = surplus(old, new)
    assert Counter(old[marks].tolist()) == Counter(old.tolist()) - Counter(new.tolist())
    for value in set(old.tolist()):
        places = np.flatnonzero(old == value)
        assert sorted(marks[places].tolist()) == marks[places].tolist(), "the last copies are those without a partner"


@given(before=rows, after=rows)
@settings(max_examples=200, deadline=None)
def test_changed_rows_are_paired_once_and_by_key(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> None:
    (old_keys, old), (new_keys, new) = split(before), split(after)
    gone, come = surplus(old, new), surplus(new, old)
    paired = pair_by_key(gone, old_keys, come, new_keys, limit=100)
    assert paired.num_changed == len(paired.changed)
    for a, b in paired.changed:
        assert old_keys[a] == new_keys[b]
        assert old[a] != new[b]
    assert sorted([*paired.removed, *(a for a, _ in paired.changed)]) == np.flatnonzero(gone).tolist()
    assert sorted([*paired.added, *(b for _, b in paired.changed)]) == np.flatnonzero(come).tolist()
    left = Counter(old_keys[paired.removed].tolist()) & Counter(new_keys[paired.added].tolist())
    assert not left, "no two rows that could be paired are left over"
