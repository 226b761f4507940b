"""Find equal and nearly equal rows, in memory that doesn't grow with the rows.

Files hold 750 bytes of each row, and the sets of candidate rows, at most four gigabytes. Memory grows with the pairs
that are compared, at most four million.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.near_duplicates import (
    MARGIN,
    NUM_BANDS,
    NUM_HASHES,
    REACH,
    THRESHOLD,
    Clusters,
    Hashes,
    Rows,
    band_key,
    bucket_pairs,
    estimate_similarity,
    jaccard,
    minhash,
    normalise_words,
    shingle,
    unique_sets,
)
from jobs.data.reports.row_arrays import RowArray, first_of_each

MAX_PAIRS = 4_000_000
MAX_SET_BYTES = 4 << 30
CHUNK = 4_000
ROW_BITS = np.uint64(32)
ROW_MASK = np.uint64((1 << 32) - 1)

Read = Callable[[Rows], Iterable[tuple[int, str]]]
"""Streams (row, text) of some rows, ascending."""


@dataclass
class SimilarRows:
    """Equal and similar rows. Rows are numbered from 0, training rows first.

    `same[i]` is the first row with the content of row i; `like[i]` the first row of its cluster of near duplicates. Of
    each validation row, counted from 0, `leak_train` is a similar train row, counted from 1 (0 without one), and
    `leak_similarity` how similar.
    """

    num_train: int
    same: RowArray
    like: RowArray
    leak_train: RowArray
    leak_similarity: RowArray
    pairs_checked: int = 0
    limited: bool = False
    seconds: float = 0.0


class DuplicateFinder:
    """Takes rows in order, then finds similar ones. `folder` holds its files; remove it after `close`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._arrays: list[RowArray] = []
        self._content, self._words = self._array("content", np.uint64), self._array("words", np.uint64)
        self._signatures = self._array("signatures", f"V{4 * NUM_HASHES}")
        self._bands = [self._array(f"band-{band}", np.uint64) for band in range(NUM_BANDS)]
        self.seconds = 0.0

    def _array(self, name: str, dtype: npt.DTypeLike, *, count: int = 0) -> RowArray:
        return self._known(RowArray(self._folder / name, dtype, count=count))

    def _known(self, rows: RowArray) -> RowArray:
        self._arrays.append(rows)
        return rows

    def add(self, contents: Sequence[str], texts: Sequence[str]) -> None:
        """Add rows: their content, for equality, and their text, for similarity."""
        started = time.perf_counter()
        self._content.append(np.array([_hash(content) for content in contents], dtype=np.uint64))
        plain = [normalise_words(text) for text in texts]
        self._words.append(np.array([_hash(text) if text else 0 for text in plain], dtype=np.uint64))
        signatures = minhash(*shingle(plain))
        self._signatures.append(signatures.view(f"V{4 * NUM_HASHES}").ravel())
        for band, keys in enumerate(self._bands):
            keys.append(np.maximum(band_key(signatures, band), np.uint64(1)))
        self.seconds += time.perf_counter() - started

    def add_finder(self, folder: Path) -> None:
        """Add all rows of another finder, closed before it compared them, by its folder."""
        signatures = [self._content, self._words, self._signatures, *self._bands]
        for rows in signatures:
            rows.append_file(folder / rows.name)

    def close(self) -> None:
        """Close the files, those of the result too."""
        for rows in self._arrays:
            rows.close()

    def finish(self, *, num_train: int, read: Read, tick: Callable[[float], None]) -> SimilarRows:
        """Compare all rows. `read` streams the texts of requested rows; `tick` is called with the progress, 0 to 1."""
        started = time.perf_counter()
        firsts = self._known(first_of_each(self._words, self._folder / "firsts"))
        num_val = len(firsts) - num_train
        alike = SimilarRows(
            num_train,
            same=self._known(first_of_each(self._content, self._folder / "same")),
            like=self._array("like", np.int64),
            leak_train=self._array("leak-train", np.int64, count=num_val),
            leak_similarity=self._array("leak-similarity", np.float64, count=num_val),
        )
        pairs = self._candidates(alike, self._compared_rows(firsts), tick=tick)
        self._compare(alike, pairs, firsts, read=read, tick=tick)
        self._add_equal_leaks(alike, firsts)
        alike.seconds = self.seconds + time.perf_counter() - started
        return alike

    def _compared_rows(self, firsts: RowArray) -> RowArray:
        """Return 1 for each row that has words, and words of its own."""
        compared = self._array("compared", np.uint8)
        for (begin, first), (_, words) in zip(firsts.blocks(), self._words.blocks(), strict=True):
            compared.append((first == np.arange(begin, begin + len(first))) & (words != 0))
        return compared

    def _candidates(self, alike: SimilarRows, compared: RowArray, *, tick: Callable[[float], None]) -> Hashes:
        """Return pairs that share a bucket and whose signatures are similar enough, most similar first.

        A pair is its two rows of 32 bits, the earlier one above.
        """
        pairs = np.empty(0, dtype=np.uint64)
        for band, keys in enumerate(self._bands):
            for part in keys.parts(among=compared):
                leading: tuple[Rows, Hashes] = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
                for number, (rows, values) in enumerate(part):
                    alike.limited = alike.limited or number > 0
                    rows, values = np.concatenate([leading[0], rows]), np.concatenate([leading[1], values])
                    pairs, is_full = _add_pairs(pairs, *bucket_pairs(values, rows, first_held_out=alike.num_train))
                    alike.limited = alike.limited or is_full
                    _, first, counts = np.unique(values, return_index=True, return_counts=True)
                    leading = rows[first[counts > REACH]], values[first[counts > REACH]]
            tick(0.5 * (band + 1) / NUM_BANDS)
        scores = np.empty(len(pairs), dtype=np.float32)
        for at in range(0, len(pairs), CHUNK):
            one, other = (
                self._signatures.take(rows).view(np.uint32).reshape(-1, NUM_HASHES)
                for rows in _rows_of(pairs[at : at + CHUNK])
            )
            scores[at : at + CHUNK] = estimate_similarity(one, other)
        good = np.flatnonzero(scores >= THRESHOLD - MARGIN)
        return pairs[good[np.argsort(-scores[good], kind="stable")]]

    def _compare(
        self, alike: SimilarRows, pairs: Hashes, firsts: RowArray, *, read: Read, tick: Callable[[float], None]
    ) -> None:
        """Join similar pairs. A pair whose rows are joined already is compared only if it may be a leak."""
        num_train = alike.num_train
        candidates = np.unique(np.concatenate([pairs >> ROW_BITS, pairs & ROW_MASK]).astype(np.uint32))
        begins, ends = self._write_sets(alike, candidates, read)
        clusters = Clusters()
        leaked = np.zeros(len(candidates), dtype=np.bool_)
        with (self._folder / "sets").open("rb") as sets:
            for at in range(0, len(pairs), CHUNK):
                left, right = _rows_of(pairs[at : at + CHUNK])
                places, other_places = np.searchsorted(candidates, left), np.searchsorted(candidates, right)
                bounds = [
                    array.take(at_place).tolist() for at_place in (places, other_places) for array in (begins, ends)
                ]
                leaks: dict[int, tuple[int, float]] = {}
                for one, other, place, other_place, begin, end, other_begin, other_end in zip(
                    left.tolist(), right.tolist(), places.tolist(), other_places.tolist(), *bounds, strict=True
                ):
                    crosses = one < num_train <= other and not leaked[other_place]
                    if (
                        begin < 0
                        or other_begin < 0
                        or (not crosses and clusters.find(place) == clusters.find(other_place))
                    ):
                        continue
                    similarity = jaccard(
                        _set_at(sets.fileno(), begin, end), _set_at(sets.fileno(), other_begin, other_end)
                    )
                    alike.pairs_checked += 1
                    if similarity >= THRESHOLD:
                        clusters.join(place, other_place)
                        if crosses:
                            leaked[other_place] = True
                            leaks[other - num_train] = one + 1, similarity
                if leaks:
                    rows = np.array(list(leaks), dtype=np.int64)
                    alike.leak_train.put(rows, np.array([one for one, _ in leaks.values()]))
                    alike.leak_similarity.put(rows, np.array([similarity for _, similarity in leaks.values()]))
                tick(0.75 + 0.25 * at / len(pairs))
        roots = clusters.representatives(len(candidates))
        for _, block in firsts.blocks():  # a copy joins its representative
            if len(candidates):
                places = np.minimum(np.searchsorted(candidates, block), len(candidates) - 1)
                block = np.where(candidates[places] == block, candidates[roots[places]], block)
            alike.like.append(block)

    def _write_sets(
        self, alike: SimilarRows, candidates: npt.NDArray[np.uint32], read: Read
    ) -> tuple[RowArray, RowArray]:
        """Write the sets of some rows to a file; return where each begins and ends, -1 beyond the limit."""
        begins, ends = self._array("begins", np.int64), self._array("ends", np.int64)
        at = 0
        with (self._folder / "sets").open("wb") as out:
            for _, text in read(candidates.astype(np.int64)) if len(candidates) else ():
                hashes, offsets = shingle([normalise_words(text)])
                hashes = unique_sets(hashes, offsets, [0])[0]
                if 8 * (at + len(hashes)) > MAX_SET_BYTES:
                    alike.limited = True
                    begins.append([-1])
                    ends.append([-1])
                    continue
                out.write(hashes.tobytes())
                begins.append([at])
                at += len(hashes)
                ends.append([at])
        return begins, ends

    def _add_equal_leaks(self, alike: SimilarRows, firsts: RowArray) -> None:
        """Add validation rows with the same words as a train row, and copies of leaking validation rows."""
        first_val = alike.num_train
        for (begin, first), (_, words) in zip(firsts.blocks(first_val), self._words.blocks(first_val), strict=True):
            rows = np.arange(begin, begin + len(first))
            is_equal = (first < first_val) & (words != 0)
            alike.leak_train.put(rows[is_equal] - first_val, first[is_equal] + 1)
            alike.leak_similarity.put(rows[is_equal] - first_val, 1.0)
            is_copy = (first >= first_val) & (first != rows)
            for array in (alike.leak_train, alike.leak_similarity):
                array.put(rows[is_copy] - first_val, array.take(first[is_copy] - first_val))


def _rows_of(pairs: Hashes) -> tuple[Rows, Rows]:
    return (pairs >> ROW_BITS).astype(np.int64), (pairs & ROW_MASK).astype(np.int64)


def _add_pairs(pairs: Hashes, left: Rows, right: Rows) -> tuple[Hashes, bool]:
    """Add pairs to sorted ones, each once, up to the limit; return whether there were more."""
    fresh = np.unique((left.astype(np.uint64) << ROW_BITS) | right.astype(np.uint64))
    places = np.searchsorted(pairs, fresh)  # both are sorted: to sort them together takes ten times as long
    is_new = np.ones(len(fresh), dtype=np.bool_)
    inside = places < len(pairs)
    is_new[inside] = pairs[places[inside]] != fresh[inside]
    room = MAX_PAIRS - len(pairs)
    fresh, places = fresh[is_new], places[is_new]
    return np.insert(pairs, places[:room], fresh[:room]), len(fresh) > room


def _set_at(file: int, begin: int, end: int) -> Hashes:
    return np.frombuffer(os.pread(file, 8 * (end - begin), 8 * begin), dtype=np.uint64)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1
