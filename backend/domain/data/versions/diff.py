"""Compare two collections of rows by the hashes of their contents. Pure; multisets, so copies count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.bool_]


def surplus(rows: Numbers, others: Numbers) -> Marks:
    """Mark the rows that have no partner among `others`: of k equal rows against m, the last k - m.

    Shape (len(rows),).
    """
    if not len(rows):
        return np.zeros(0, dtype=bool)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    places = np.arange(len(ordered))
    copy = places - np.maximum.accumulate(np.where(starts, places, 0))
    known, counts = np.unique(others, return_counts=True)
    partners = np.zeros(len(ordered), dtype=np.int64)
    if len(known):
        at = np.searchsorted(known, ordered).clip(max=len(known) - 1)
        partners = np.where(known[at] == ordered, counts[at], 0)
    marks = np.zeros(len(rows), dtype=bool)
    marks[order] = copy >= partners
    return marks


@dataclass(frozen=True)
class PairedRows:
    """Indices of removed and added rows; `changed` pairs those with the same prompt and different answers."""

    removed: list[int]
    added: list[int]
    changed: list[tuple[int, int]]
    num_changed: int


def pair_by_key(removed: Marks, removed_keys: Numbers, added: Marks, added_keys: Numbers, *, limit: int) -> PairedRows:
    """Pair removed rows with added ones of the same key, each once, and return at most `limit` places of each sort."""
    gone, new = np.flatnonzero(removed), np.flatnonzero(added)
    # a row without a partner is what `surplus` marks; all others are paired
    alone_gone, alone_new = surplus(removed_keys[gone], added_keys[new]), surplus(added_keys[new], removed_keys[gone])
    paired_gone, paired_new = gone[~alone_gone], new[~alone_new]
    paired_gone = paired_gone[np.argsort(removed_keys[paired_gone], kind="stable")]
    paired_new = paired_new[np.argsort(added_keys[paired_new], kind="stable")]
    pairs = sorted(zip(paired_gone.tolist(), paired_new.tolist(), strict=True))
    return PairedRows(gone[alone_gone][:limit].tolist(), new[alone_new][:limit].tolist(), pairs[:limit], len(pairs))
