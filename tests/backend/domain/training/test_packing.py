"""First-fit decreasing against its definition, and padding against arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.training.packing import count_sequences, pack_rows, padded_positions

rows = st.lists(st.integers(0, 40), max_size=60)


def by_hand(lengths: list[int], capacity: int) -> int:
    bins: list[int] = []
    for length in sorted((min(length, capacity) for length in lengths if length), reverse=True):
        place = next((index for index, room in enumerate(bins) if room >= length), None)
        if place is None:
            bins.append(capacity - length)
        else:
            bins[place] -= length
    return len(bins)


@given(rows, st.integers(1, 50))
def test_rows_of_one_length_placed_together_use_as_many_bins_as_one_by_one(lengths: list[int], capacity: int) -> None:
    assert count_sequences(np.array(lengths, dtype=np.int64), capacity) == by_hand(lengths, capacity)


@given(rows, st.integers(1, 50))
def test_no_sequence_holds_more_than_fits_and_every_row_that_is_not_empty_is_in_one(
    lengths: list[int], capacity: int
) -> None:
    where = pack_rows(np.array(lengths, dtype=np.int64), capacity)
    assert [place == -1 for place in where] == [length == 0 for length in lengths]
    for sequence in range(count_sequences(np.array(lengths, dtype=np.int64), capacity)):
        held = [min(length, capacity) for length, place in zip(lengths, where, strict=True) if place == sequence]
        assert 0 < sum(held) <= capacity


def test_a_worked_example() -> None:
    # Johnson (1973): capacity 100 holds {60, 40}, {50, 30, 20}, {50, 10, 40 would not fit}
    assert count_sequences(np.array([50, 60, 40, 30, 20, 50]), 100) == 3
    assert count_sequences(np.array([], dtype=np.int64), 8) == 0


@given(rows, st.integers(1, 7))
def test_every_row_takes_what_the_longest_of_its_batch_takes(lengths: list[int], batch: int) -> None:
    expected = 0
    for at in range(0, len(lengths), batch):
        part = lengths[at : at + batch]
        expected += len(part) * (max(part) + 3)
    assert (
        padded_positions(np.array(lengths, dtype=np.int64), batch=batch, padded=lambda longest: longest + 3) == expected
    )
