"""Clusters of items: questions about one passage are not independent, and counting them so understates the error. Pure
rules.

A cluster reaches the scores as one of an item's values, a number made of its label, so that it is stored, packed and
joined like them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

CLUSTER = "cluster"
"""Name of the value, and of a column that states an item's cluster."""
PASSAGE_COLUMNS = ("passage", "context", "story", "article", "paragraph", "document")
MIN_PASSAGE = 80
"""Characters; a shorter text before a question is a heading, not a passage."""
MAX_SHARE = 0.5
"""Share of the items in one group from which on their common text is an instruction, not a passage."""


def cluster_values(rows: Sequence[Mapping[str, Any]], labels: Sequence[str | None] | None = None) -> list[float] | None:
    """Return each item's cluster as a number, or None where the items stand alone.

    `labels` are a task's own. Otherwise items belong together that have the same `cluster`, the same passage in a
    column of that name, or the same text of at least 80 characters before the last line of their question, as imported
    passages are. A guessed grouping that puts half of the items together is an instruction and ignored.
    """
    declared = (
        list(labels) if labels is not None and any(label is not None for label in labels) else _column(rows, (CLUSTER,))
    )
    if declared is not None:
        return _codes(declared)
    guessed = _column(rows, PASSAGE_COLUMNS) or _leading_passages(rows)
    if guessed is None:
        return None
    counts = Counter(label for label in guessed if label is not None)
    if not counts or max(counts.values()) > max(1, MAX_SHARE * len(rows)):
        return None
    return _codes(guessed)


def _codes(labels: Sequence[str | None]) -> list[float] | None:
    """Number the clusters by a hash of their labels, shared by evaluations; an item without one stands alone."""
    names = [
        f"item {position}" if label is None else f"cluster {label.strip()}" for position, label in enumerate(labels)
    ]
    if len(set(names)) == len(names):
        return None
    return [
        float(int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big"))
        for name in names
    ]


def _column(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str | None] | None:
    for name in names:
        labels = [str(row[name]).strip() or None if row.get(name) is not None else None for row in rows]
        if len({label for label in labels if label is not None}) < sum(label is not None for label in labels):
            return labels
    return None


def _leading_passages(rows: Sequence[Mapping[str, Any]]) -> list[str | None] | None:
    labels = []
    for row in rows:
        passage = str(row.get("question") or "").rstrip().rpartition("\n")[0].strip()
        labels.append(passage if len(passage) >= MIN_PASSAGE else None)
    return labels if any(label is not None for label in labels) else None
