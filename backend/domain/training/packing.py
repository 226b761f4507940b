"""Packing of rows of different lengths into sequences, and the padding that is left without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


def pack_rows(lengths: Lengths, capacity: int) -> npt.NDArray[np.int64]:
    """Return the sequence, counted from 0, that each row goes to by first-fit decreasing; -1 for empty rows.

    At most 11/9 of the fewest possible sequences, plus 6/9 (Dósa 2007, The tight bound of first fit decreasing
    bin-packing). Rows of one length are placed together, in the order given, so that a million rows take as long as
    there are different lengths. Rows longer than `capacity` fill a sequence of their own.
    """
    fitted = np.minimum(lengths, capacity)
    order = np.argsort(-fitted, kind="stable")
    sizes, counts = np.unique(fitted[fitted > 0], return_counts=True)
    where = np.full(len(lengths), -1, dtype=np.int64)
    # open sequences in the order in which they were opened: free tokens and number
    room = names = np.empty(0, dtype=np.int64)
    opened = done = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        fits = room // size
        placed = np.clip(count - (np.cumsum(fits) - fits), 0, fits)
        left, each = count - int(placed.sum()), capacity // size
        fresh = np.full(-(-left // each), each, dtype=np.int64)
        if left % each:
            fresh[-1] = left % each
        new = np.arange(opened, opened + len(fresh))
        where[order[done : done + count]] = np.concatenate([np.repeat(names, placed), np.repeat(new, fresh)])
        done, opened = done + count, opened + len(fresh)
        room, names = np.concatenate([room - placed * size, capacity - fresh * size]), np.concatenate([names, new])
        usable = room >= sizes[0]
        room, names = room[usable], names[usable]
    return where


def count_sequences(lengths: Lengths, capacity: int, *, counts: Lengths | None = None) -> int:
    """Return how many sequences `pack_rows` fills with `counts` rows of each length (default: one).

    Time and memory grow with the number of different lengths: neighbouring sequences with equal room are one entry.
    """
    counts = np.ones_like(lengths) if counts is None else counts
    sizes, which = np.unique(np.minimum(lengths, capacity)[lengths > 0], return_inverse=True)
    totals = np.bincount(which, weights=counts[lengths > 0], minlength=len(sizes)).astype(np.int64)
    # open sequences in the order in which they were opened: free tokens and how many alike
    room = number = np.empty(0, dtype=np.int64)
    opened = 0
    for size, count in zip(sizes[::-1].tolist(), totals[::-1].tolist(), strict=True):
        fits = room // size
        before = np.cumsum(fits * number) - fits * number
        placed = np.clip(count - before, 0, fits * number)
        full = placed // np.maximum(fits, 1)  # sequences of an entry that take all that fits; at most one takes fewer
        rest = placed - full * fits
        left, each = count - int(placed.sum()), capacity // size
        opened += -(-left // each)
        tables = [[room - fits * size, room - rest * size, room], [full, rest > 0, number - full - (rest > 0)]]
        room, number = (np.stack(table, axis=1).ravel() for table in tables)
        room = np.concatenate([room, [capacity - each * size, capacity - left % each * size]])
        number = np.concatenate([number, [left // each, left % each > 0]])
        usable = (room >= sizes[0]) & (number > 0)
        room, number = room[usable], number[usable]
        starts = np.flatnonzero(np.diff(room, prepend=-1))
        room, number = room[starts], np.add.reduceat(number, starts) if len(starts) else number
    return opened


def padded_positions(lengths: Lengths, *, batch: int, padded: Callable[[int], int]) -> int:
    """Return the number of positions when every `batch` rows, in the order given, are padded to `padded(longest)`."""
    if not len(lengths):
        return 0
    fill = -len(lengths) % batch
    table = np.concatenate([lengths, np.zeros(fill, dtype=np.int64)]).reshape(-1, batch)
    rows = np.full(len(table), batch, dtype=np.int64)
    rows[-1] -= fill
    longest, which = np.unique(table.max(axis=1), return_inverse=True)
    return int((np.array([padded(int(one)) for one in longest], dtype=np.int64)[which] * rows).sum())
