"""Describe similar rows for a report: clusters with examples, leaks, and the rows that each finding would drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.near_duplicates import THRESHOLD, jaccard, normalise, shingle, unique_sets
from backend.domain.data.reports.report import DuplicateCluster, Duplicates, Leak, Leakage
from backend.domain.data.rows.display import row_text
from jobs.data.reports.duplicates import SimilarRows
from jobs.data.reports.rows import Rows

CLUSTERS, PER_CLUSTER, LEAKS = 12, 4, 50
MAX_LISTED = 1_000_000

Numbers = npt.NDArray[np.int64]


def describe_duplicates(alike: SimilarRows, rows: Rows) -> Duplicates:
    """Count duplicates within each split, and show the largest clusters."""
    exact, near = _extra(alike.same, rows), _extra(alike.like, rows)
    return Duplicates(
        exact=len(exact),
        near=len(np.setdiff1d(near, exact)),
        exact_clusters=_clusters(alike.same, np.arange(rows.total), rows),
        near_clusters=_clusters(alike.like, np.flatnonzero(alike.same == np.arange(rows.total)), rows),
        threshold=THRESHOLD,
        pairs_checked=alike.pairs_checked,
        limited=alike.limited,
        seconds=alike.seconds,
    )


def describe_leakage(alike: SimilarRows, rows: Rows, *, same_prompt: Sequence[int]) -> Leakage:
    """Count validation rows that are in the train split too, and list the first."""
    exact = [val_row for val_row, _, _ in alike.leaks if alike.same[val_row] < rows.num_train]
    leaked = {val_row for val_row, _, _ in alike.leaks}
    shown = sorted(alike.leaks, key=lambda leak: (-leak[2], leak[0]))[:LEAKS]
    texts = {
        number: row_text(row) for number, row in rows.fetch([number for leak in shown for number in leak[:2]]).items()
    }
    return Leakage(
        exact=len(exact),
        near=len(leaked) - len(exact),
        same_prompt=len(set(same_prompt) - leaked),
        rows=[
            Leak(
                val=rows.ref(val_row, texts[val_row]),
                train=rows.ref(trained, texts[trained]),
                similarity=round(similarity, 4),
            )
            for val_row, trained, similarity in shown
        ],
    )


def rows_to_drop(alike: SimilarRows, rows: Rows, noted: Mapping[str, Sequence[int]]) -> dict[str, dict[str, list[int]]]:
    """Return the rows that each finding would drop, by split and counted from 0. Of similar rows the first in each
    split is kept. Of a leak the train row is dropped, so that validation does not change.
    """
    lists: dict[str, Sequence[int] | Numbers] = {
        "exact_duplicates": _extra(alike.same, rows),
        "duplicates": _extra(alike.like, rows),
        "leakage": _leaking(alike, rows),
        **noted,
    }
    droppable: dict[str, dict[str, list[int]]] = {}
    for reason, listed in lists.items():
        numbers = np.sort(np.asarray(listed, dtype=np.int64))[:MAX_LISTED]
        is_val = numbers >= rows.num_train
        droppable[reason] = {"train": numbers[~is_val].tolist(), "val": (numbers[is_val] - rows.num_train).tolist()}
    return droppable


def _leaking(alike: SimilarRows, rows: Rows) -> Numbers:
    """Return all train rows in a cluster with a leaking validation row, as each of them would leak."""
    clusters = np.unique(alike.like[[val_row for val_row, _, _ in alike.leaks]])
    return np.flatnonzero(np.isin(alike.like[: rows.num_train], clusters))


def _extra(first: Numbers, rows: Rows) -> Numbers:
    """Return the rows that are not the first of their cluster in their split."""
    is_val = np.arange(rows.total) >= rows.num_train
    _, earliest = np.unique(first * 2 + is_val, return_index=True)
    extra = np.ones(rows.total, dtype=bool)
    extra[earliest] = False
    return np.flatnonzero(extra)


def _clusters(first: Numbers, among: Numbers, rows: Rows) -> list[DuplicateCluster]:
    """Return the largest clusters, each with a few of its rows."""
    roots, counts = np.unique(first[among], return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:CLUSTERS]
    largest = largest[counts[largest] > 1]
    chosen = [among[np.flatnonzero(first[among] == roots[index])[:PER_CLUSTER]].tolist() for index in largest]
    texts = {
        number: row_text(row)
        for number, row in rows.fetch([number for numbers in chosen for number in numbers]).items()
    }
    clusters = []
    for index, numbers in zip(largest, chosen, strict=True):
        sets = unique_sets(*shingle([normalise(texts[number]) for number in numbers]), range(len(numbers)))
        clusters.append(
            DuplicateCluster(
                size=int(counts[index]),
                rows=[rows.ref(number, texts[number]) for number in numbers],
                similarity=[
                    1.0 if texts[number] == texts[numbers[0]] else round(jaccard(sets[0], sets[place]), 4)
                    for place, number in enumerate(numbers)
                ],
            )
        )
    return clusters
