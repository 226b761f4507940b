"""Describe similar rows for a report: clusters with examples, leaks, and the rows that each finding would drop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.near_duplicates import THRESHOLD, jaccard, normalise_words, shingle, unique_sets
from backend.domain.data.reports.report import DuplicateCluster, Duplicates, Leak, Leakage
from backend.domain.data.rows.display import row_text
from jobs.data.reports.duplicates import SimilarRows
from jobs.data.reports.row_arrays import Numbers, RowArray, RowList
from jobs.data.reports.rows import VersionRows

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
