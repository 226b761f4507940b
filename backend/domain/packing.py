"""How much of a batch is text: rows padded to the longest beside them, or packed into the context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


def first_fit_decreasing(lengths: Lengths, capacity: int) -> int:
    """Return how many bins of `capacity` hold all rows by first-fit decreasing (at most 11/9 of the fewest possible, plus 6/9).

    Dósa (2007), The tight bound of first fit decreasing bin-packing. Rows of one length are placed together, so that a million rows take
    as long as there are different lengths. Rows longer than a bin count as full bins' worth of `capacity`; empty ones need none.
    """
    lengths = np.minimum(lengths[lengths > 0], capacity)
    sizes, counts = np.unique(lengths, return_counts=True)
    room = np.empty(0, dtype=np.int64)  # of the bins opened so far, in order; full ones are dropped
    closed = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        fits = room // size
        before = np.cumsum(fits) - fits
        placed = np.clip(count - before, 0, fits)
        room = room - placed * size
        left = count - int(placed.sum())
        each = capacity // size
        full, rest = divmod(left, each)
        room = np.concatenate([room, np.full(full, capacity - each * size), np.full(1 if rest else 0, capacity - rest * size)])
        usable = room >= sizes[0]
        closed += int((~usable).sum())
        room = room[usable]
    return closed + len(room)


def padded_positions(lengths: Lengths, *, batch: int, padded: Callable[[int], int]) -> int:
    """Return how many positions rows take in the order given when every `batch` of them is padded to `padded(longest)`."""
    if not len(lengths):
        return 0
    fill = -len(lengths) % batch
    table = np.concatenate([lengths, np.zeros(fill, dtype=np.int64)]).reshape(-1, batch)
    rows = np.full(len(table), batch, dtype=np.int64)
    rows[-1] -= fill
    longest, which = np.unique(table.max(axis=1), return_inverse=True)
    return int((np.array([padded(int(one)) for one in longest], dtype=np.int64)[which] * rows).sum())
