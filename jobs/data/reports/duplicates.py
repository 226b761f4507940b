"""Find equal and nearly equal rows, in memory that doesn't grow with the rows, and describe them for a report: clusters
with examples, leaks, and the rows that each finding would drop.

Files hold 750 bytes of each row, and the sets of candidate rows, at most four gigabytes. Memory grows with the pairs
that are compared, at most four million.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
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
from backend.domain.data.reports.report import DuplicateCluster, Duplicates, Leak, Leakage
from backend.domain.data.rows.display import row_text
from jobs.data.reports.row_arrays import Numbers, RowArray, RowList, first_of_each
from jobs.data.reports.rows import VersionRows

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


CLUSTERS, PER_CLUSTER, LEAKS = 12, 4, 50


Marks = npt.NDArray[np.bool_]


def describe_duplicates(alike: SimilarRows, rows: VersionRows, *, folder: Path) -> Duplicates:
    """Count duplicates within each split, and show the largest clusters. `folder` is for temporary files."""
    exact = near = 0
    copies, similar = extra_rows(alike.same, rows, folder / "copies"), extra_rows(alike.like, rows, folder / "similar")
    for (_, is_copy), (_, is_similar) in zip(copies, similar, strict=True):
        exact += int(is_copy.sum())
        near += int((is_similar & ~is_copy).sum())
    return Duplicates(
        exact=exact,
        near=near,
        exact_clusters=_clusters(alike.same, alike, rows, folder, is_exact=True),
        near_clusters=_clusters(alike.like, alike, rows, folder, is_exact=False),
        threshold=THRESHOLD,
        pairs_checked=alike.pairs_checked,
        limited=alike.limited,
        seconds=alike.seconds,
    )


def describe_leakage(alike: SimilarRows, rows: VersionRows, *, same_prompt: RowArray) -> Leakage:
    """Count validation rows that are in the train split too, and list the first.

    `same_prompt` marks those whose prompt is in the train split.
    """
    exact = near = prompts = 0
    shown: list[tuple[float, int, int]] = []
    blocks = (
        alike.leak_train.blocks(),
        alike.leak_similarity.blocks(),
        alike.same.blocks(rows.num_train),
        same_prompt.blocks(),
    )
    for (begin, trained), (_, similarity), (_, same), (_, has_prompt) in zip(*blocks, strict=True):
        places = np.flatnonzero(trained)
        is_exact = same[places] < rows.num_train
        exact, near = exact + int(is_exact.sum()), near + int((~is_exact).sum())
        prompts += int(((has_prompt != 0) & (trained == 0)).sum())
        top = places[np.argsort(-similarity[places], kind="stable")[:LEAKS]]
        fresh = zip(
            (-similarity[top]).tolist(),
            (top + begin + rows.num_train).tolist(),
            (trained[top] - 1).tolist(),
            strict=True,
        )
        shown = sorted([*shown, *fresh])[:LEAKS]
    texts = {
        number: row_text(row) for number, row in rows.fetch([number for leak in shown for number in leak[1:]]).items()
    }
    return Leakage(
        exact=exact,
        near=near,
        same_prompt=prompts,
        rows=[
            Leak(
                val=rows.ref(val_row, texts[val_row]),
                train=rows.ref(trained, texts[trained]),
                similarity=round(-below, 4),
            )
            for below, val_row, trained in shown
        ],
    )


def rows_to_drop(
    alike: SimilarRows, rows: VersionRows, noted: Mapping[str, RowList], *, folder: Path
) -> dict[str, dict[str, Numbers]]:
    """Return the rows that each finding would drop, by split and counted from 0.

    Of similar rows the first in each split is kept. Of a leak the train row is dropped, so that validation does not
    change.
    """
    lists = {
        "exact_duplicates": _listed(extra_rows(alike.same, rows, folder / "copies")),
        "duplicates": _listed(extra_rows(alike.like, rows, folder / "similar")),
        "leakage": _listed(leaking_rows(alike, rows, folder / "leaking")),
        **noted,
    }
    return {
        reason: dict(zip(("train", "val"), listed.split_at(rows.num_train), strict=True))
        for reason, listed in lists.items()
    }


def _listed(blocks: Iterator[tuple[int, Marks]]) -> RowList:
    listed = RowList()
    for begin, is_in in blocks:
        listed.extend(np.flatnonzero(is_in) + begin)
    return listed


def leaking_rows(alike: SimilarRows, rows: VersionRows, file: Path) -> Iterator[tuple[int, Marks]]:
    """Yield (first row, marks) of the train rows in a cluster with a leaking validation row: each would leak."""
    with closing(RowArray(file, np.uint8, count=rows.total)) as leaks:
        for (_, trained), (_, like) in zip(alike.leak_train.blocks(), alike.like.blocks(rows.num_train), strict=True):
            leaks.put(np.unique(like[trained != 0]), 1)
        for begin, like in alike.like.blocks(0, rows.num_train):
            yield begin, leaks.take(like) != 0


def extra_rows(first: RowArray, rows: VersionRows, file: Path) -> Iterator[tuple[int, Marks]]:
    """Yield the rows that are not the first of their cluster in their split: (first row, marks)."""
    for begin, roots in first.blocks(0, rows.num_train):
        yield begin, roots != np.arange(begin, begin + len(roots))
    with closing(RowArray(file, np.uint8, count=rows.total)) as has_val_row:
        for begin, roots in first.blocks(rows.num_train):
            unique, earliest = np.unique(roots, return_index=True)
            extra = np.ones(len(roots), dtype=np.bool_)
            extra[earliest] = has_val_row.take(unique) != 0
            has_val_row.put(unique, 1)
            yield begin, extra


def _blocks(first: RowArray, alike: SimilarRows, *, is_exact: bool) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield (rows, first row of each one's cluster) of the rows that are not the first themselves.

    Of equal rows only one is among them, unless `is_exact`.
    """
    for (begin, roots), (_, same) in zip(first.blocks(), alike.same.blocks(), strict=True):
        rows = np.arange(begin, begin + len(roots))
        places = np.flatnonzero((roots != rows) & (is_exact | (same == rows)))
        yield places + begin, roots[places]


def _clusters(
    first: RowArray, alike: SimilarRows, rows: VersionRows, folder: Path, *, is_exact: bool
) -> list[DuplicateCluster]:
    """Return the largest clusters, each with a few of its rows."""
    largest: list[tuple[int, int]] = []  # (-rows beside the first, first row)
    with closing(RowArray(folder / "sizes", np.int32, count=rows.total)) as others:
        for _, roots in _blocks(first, alike, is_exact=is_exact):
            unique, counts = np.unique(roots, return_counts=True)
            others.put(unique, others.take(unique) + counts)
        for begin, counts in others.blocks():
            places = np.flatnonzero(counts)
            top = places[np.argsort(-counts[places], kind="stable")[:CLUSTERS]]
            largest = sorted([*largest, *zip((-counts[top]).tolist(), (top + begin).tolist(), strict=True)])[:CLUSTERS]
    members = {root: [root] for _, root in largest}
    for others_here, roots in _blocks(first, alike, is_exact=is_exact) if members else ():
        for root in np.intersect1d(roots, list(members)).tolist():
            members[root] += others_here[roots == root][: PER_CLUSTER - len(members[root])].tolist()
    texts = {
        number: row_text(row)
        for number, row in rows.fetch([number for chosen in members.values() for number in chosen]).items()
    }
    clusters = []
    for below, root in largest:
        numbers = members[root]
        sets = unique_sets(*shingle([normalise_words(texts[number]) for number in numbers]), range(len(numbers)))
        clusters.append(
            DuplicateCluster(
                size=1 - below,
                rows=[rows.ref(number, texts[number]) for number in numbers],
                similarity=[
                    1.0 if texts[number] == texts[numbers[0]] else round(jaccard(sets[0], sets[place]), 4)
                    for place, number in enumerate(numbers)
                ],
            )
        )
    return clusters
