"""Find equal and nearly equal rows, with signatures and sets in files, whose pages are released after use. About a
hundred bytes per row are in memory; signatures take 512 bytes per row on disk, and the sets of candidate rows at most
four gigabytes.
"""

from __future__ import annotations

import mmap
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.near_duplicates import (
    BAND_ROWS,
    MARGIN,
    NUM_BANDS,
    NUM_HASHES,
    THRESHOLD,
    Clusters,
    Hashes,
    Rows,
    band_key,
    bucket_pairs,
    estimate,
    jaccard,
    normalise,
    shingle,
    sign,
    unique_sets,
)

MAX_PAIRS = 4_000_000
MAX_SET_BYTES = 4 << 30
CHUNK = 4_000
SORTED_TOGETHER = 1 << 19
"""Rows whose buckets are sorted at once: a sort needs some hundred bytes a row."""

Read = Callable[[npt.NDArray[np.bool_]], Iterable[tuple[int, str]]]
"""Streams (row, text) of the marked rows, ascending."""


@dataclass
class SimilarRows:
    """Equal and similar rows. Rows are numbered from 0, training rows first.

    `same[i]` is the first row with the content of row i; `like[i]` the first row of its cluster of near duplicates.
    `leaks` are (validation row, train row, similarity), one per validation row.
    """

    same: Rows
    like: Rows
    leaks: list[tuple[int, int, float]] = field(default_factory=list)
    pairs_checked: int = 0
    limited: bool = False
    seconds: float = 0.0


class DuplicateFinder:
    """Takes rows in order, then finds similar ones. `folder` holds its files; remove it afterwards."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._signatures = folder / "signatures.u32"
        self._sets = folder / "sets.u64"
        self._out = self._signatures.open("wb")
        self._content, self._words = array("Q"), array("Q")
        self.seconds = 0.0

    def add(self, contents: Sequence[str], texts: Sequence[str]) -> None:
        """Add rows: their content, for equality, and their text, for similarity."""
        started = time.perf_counter()
        self._content.extend(_hash(content) for content in contents)
        plain = [normalise(text) for text in texts]
        self._words.extend(_hash(text) if text else 0 for text in plain)
        self._out.write(sign(*shingle(plain)).tobytes())
        self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """Close the file of signatures; `finish` closes it, too."""
        self._out.close()

    def finish(self, *, num_train: int, read: Read, tick: Callable[[float], None]) -> SimilarRows:
        """Compare all rows. `read` streams the texts of requested rows; `tick` is called with the progress, 0 to 1."""
        started = time.perf_counter()
        self.close()
        content = np.frombuffer(self._content, dtype=np.uint64)
        words = np.frombuffer(self._words, dtype=np.uint64)
        firsts = _first_of_each(words)
        alike = SimilarRows(same=_first_of_each(content), like=firsts.copy())
        rows = np.flatnonzero((firsts == np.arange(len(words))) & (words != 0))
        left, right, alike.limited = self._candidates(rows, num_train=num_train, tick=tick)
        self._compare(alike, left, right, num_train=num_train, read=read, tick=tick)
        _add_equal_leaks(alike, firsts, words, num_train=num_train)
        alike.seconds = self.seconds + time.perf_counter() - started
        return alike

    def _candidates(self, rows: Rows, *, num_train: int, tick: Callable[[float], None]) -> tuple[Rows, Rows, bool]:
        """Return pairs that share a bucket and whose signatures are similar enough, most similar first."""
        if len(rows) < 2:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), False
        signatures = np.memmap(self._signatures, dtype=np.uint32, mode="r").reshape(-1, NUM_HASHES)
        codes, limited = np.empty(0, dtype=np.uint64), False
        for band in range(NUM_BANDS):
            keys = np.concatenate([_keys(signatures, rows[at : at + CHUNK], band) for at in range(0, len(rows), CHUNK)])
            parts = -(-len(rows) // SORTED_TOGETHER)
            for part in range(parts):
                chosen = slice(None) if parts == 1 else keys % np.uint64(parts) == part
                left, right = bucket_pairs(keys[chosen], rows[chosen], first_held_out=num_train)
                fresh = np.unique((left.astype(np.uint64) << np.uint64(32)) | right.astype(np.uint64))
                fresh = np.setdiff1d(fresh, codes, assume_unique=True)
                if len(codes) + len(fresh) > MAX_PAIRS:
                    fresh, limited = fresh[: MAX_PAIRS - len(codes)], True
                codes = np.union1d(codes, fresh)
            tick(0.5 * (band + 1) / NUM_BANDS)
        left, right = (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)
        likely = []
        for at in range(0, len(left), CHUNK):
            likely.append(estimate(signatures, left[at : at + CHUNK], right[at : at + CHUNK]))
            _let_go(signatures)
        scores = np.concatenate([np.empty(0), *likely])
        good = np.flatnonzero(scores >= THRESHOLD - MARGIN)
        good = good[np.argsort(-scores[good], kind="stable")]
        return left[good], right[good], limited

    def _compare(
        self,
        alike: SimilarRows,
        left: Rows,
        right: Rows,
        *,
        num_train: int,
        read: Read,
        tick: Callable[[float], None],
    ) -> None:
        """Join similar pairs. A pair whose rows are joined already is compared only if it may be a leak."""
        is_candidate = np.zeros(len(alike.like), dtype=bool)
        is_candidate[left] = is_candidate[right] = True
        sets, bounds, full = self._write_sets(is_candidate, read)
        alike.limited = alike.limited or full
        place_of = np.cumsum(is_candidate, dtype=np.int64) - 1
        clusters = Clusters()
        leaks: dict[int, tuple[int, float]] = {}
        for at in range(0, len(left), CHUNK):
            for one, other in zip(left[at : at + CHUNK].tolist(), right[at : at + CHUNK].tolist(), strict=True):
                crosses = one < num_train <= other and other not in leaks
                (first, first_end), (second, second_end) = bounds[place_of[one]], bounds[place_of[other]]
                if first < 0 or second < 0 or (not crosses and clusters.find(one) == clusters.find(other)):
                    continue
                similarity = jaccard(sets[first:first_end], sets[second:second_end])
                alike.pairs_checked += 1
                if similarity >= THRESHOLD:
                    clusters.join(one, other)
                    if crosses:
                        leaks[other] = (one, similarity)
            _let_go(sets)
            tick(0.75 + 0.25 * at / len(left))
        alike.like = clusters.representatives(len(alike.like))[alike.like]  # a copy joins its representative
        alike.leaks = [(other, one, similarity) for other, (one, similarity) in leaks.items()]

    def _write_sets(self, is_candidate: npt.NDArray[np.bool_], read: Read) -> tuple[Hashes, Rows, bool]:
        """Write the sets of marked rows to a file; return it, the bounds of each (-1 beyond the limit), and whether any
        is beyond it.
        """
        bounds = np.full((int(is_candidate.sum()), 2), -1, dtype=np.int64)
        at, full = 0, False
        with self._sets.open("wb") as out:
            for place, (_, text) in enumerate(read(is_candidate) if len(bounds) else ()):
                hashes, offsets = shingle([normalise(text)])
                mine = unique_sets(hashes, offsets, [0])[0]
                if 8 * (at + len(mine)) > MAX_SET_BYTES:
                    full = True
                    continue
                out.write(mine.tobytes())
                bounds[place] = at, at + len(mine)
                at += len(mine)
        sets: Hashes = np.memmap(self._sets, dtype=np.uint64, mode="r") if at else np.empty(0, dtype=np.uint64)
        return sets, bounds, full


def _keys(signatures: npt.NDArray[np.uint32], rows: Rows, band: int) -> Hashes:
    """Return the buckets of some rows in one band."""
    part = signatures[rows, band * BAND_ROWS : (band + 1) * BAND_ROWS]
    _let_go(signatures)
    return band_key(part, 0)


def _let_go(mapped: npt.NDArray[Any]) -> None:
    """Release the memory of a file's pages, which are read again on access."""
    if isinstance(mapped, np.memmap):
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


def _first_of_each(values: npt.NDArray[np.uint64]) -> Rows:
    """Return for each index the first index with the same value; 0 equals nothing."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    firsts = first[inverse].astype(np.int64)
    firsts[values == 0] = np.flatnonzero(values == 0)
    return firsts


def _add_equal_leaks(alike: SimilarRows, firsts: Rows, words: npt.NDArray[np.uint64], *, num_train: int) -> None:
    """Add validation rows with the same words as a train row, and copies of leaking validation rows."""
    known = {val_row: (trained, similarity) for val_row, trained, similarity in alike.leaks}
    for row in range(num_train, len(words)):
        first = int(firsts[row])
        if first < num_train and words[row]:
            known[row] = (first, 1.0)
        elif first != row and first in known:
            known[row] = known[first]
    alike.leaks = [(row, *known[row]) for row in sorted(known)]
