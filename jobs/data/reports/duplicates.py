"""Find equal and nearly equal rows, with signatures and sets in files. About 40 bytes per row are in memory (its hashes and its bucket in
one band); signatures take 512 bytes per row on disk, and the sets of candidate rows at most a gigabyte.
"""

from __future__ import annotations

import mmap
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

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
MAX_SET_BYTES = 1 << 30
CHUNK = 20_000

Read = Callable[[set[int]], Iterable[tuple[int, str]]]
"""Streams (row, text) of the requested rows."""


@dataclass
class SimilarRows:
    """Equal and similar rows. Rows are numbered from 0, training rows first.

    `same[i]` is the first row with the content of row i; `like[i]` the first row of its cluster of near duplicates. `leaks` are
    (validation row, train row, similarity), one per validation row.
    """

    same: Rows
    like: Rows
    leaks: list[tuple[int, int, float]] = field(default_factory=list)
    similarity: dict[tuple[int, int], float] = field(default_factory=dict)
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
            left, right = bucket_pairs(keys, rows, first_held_out=num_train)
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
        sets, places, full = self._write_sets({*left.tolist(), *right.tolist()}, read)
        alike.limited = alike.limited or full
        clusters = Clusters()
        leaks: dict[int, tuple[int, float]] = {}
        for count, (one, other) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
            crosses = one < num_train <= other and other not in leaks
            if one not in places or other not in places or (not crosses and clusters.find(one) == clusters.find(other)):
                continue
            similarity = jaccard(sets[slice(*places[one])], sets[slice(*places[other])])
            alike.pairs_checked += 1
            if similarity >= THRESHOLD:
                clusters.join(one, other)
                alike.similarity[one, other] = similarity
                if crosses:
                    leaks[other] = (one, similarity)
            if count % 2000 == 0:
                tick(0.75 + 0.25 * count / len(left))
        for first, rows in clusters.members().items():
            alike.like[rows] = first
        alike.like = alike.like[alike.like]  # a copy joins its representative
        alike.leaks = [(other, one, similarity) for other, (one, similarity) in leaks.items()]

    def _write_sets(self, rows: set[int], read: Read) -> tuple[Hashes, dict[int, tuple[int, int]], bool]:
        """Write the sets of some rows to a file; return it, the bounds of each row, and whether some exceeded the limit."""
        places: dict[int, tuple[int, int]] = {}
        at, full = 0, False
        with self._sets.open("wb") as out:
            for row, text in read(rows) if rows else ():
                hashes, offsets = shingle([normalise(text)])
                mine = unique_sets(hashes, offsets, [0])[0]
                if 8 * (at + len(mine)) > MAX_SET_BYTES:
                    full = True
                    continue
                out.write(mine.tobytes())
                places[row] = (at, at + len(mine))
                at += len(mine)
        sets: Hashes = np.memmap(self._sets, dtype=np.uint64, mode="r") if at else np.empty(0, dtype=np.uint64)
        return sets, places, full


def _keys(signatures: npt.NDArray[np.uint32], rows: Rows, band: int) -> Hashes:
    """Return the buckets of some rows in one band."""
    part = signatures[rows, band * BAND_ROWS : (band + 1) * BAND_ROWS]
    _let_go(signatures)
    return band_key(part, 0)


def _let_go(signatures: npt.NDArray[np.uint32]) -> None:
    """Release the memory of a file's pages, which are read again on access."""
    signatures._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


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
