"""Decide which rows are for training and which for validation: by a seeded hash of the row's content, never by its place.

So identical rows can't stand on both sides, and a row keeps its side when others are added around it (in large datasets).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

MIN_DOCUMENTS = 10  # with fewer texts than this, the texts themselves are cut


def hash_fraction(row_json: str, *, seed: int) -> float:
    """Return a number in [0, 1) that depends on the row and the seed alone."""
    digest = hashlib.blake2b(row_json.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def exact_val_rows(rows_json: Sequence[str], *, seed: int, val_fraction: float) -> frozenset[str]:
    """Choose the validation rows of a small dataset so that their share is exact, and not zero by bad luck.

    Returns the distinct rows (as JSON) that go to validation: at least one, and never all, where there are two distinct rows.
    """
    distinct = sorted(set(rows_json), key=lambda row: (hash_fraction(row, seed=seed), row))
    if val_fraction <= 0 or len(distinct) < 2:
        return frozenset()
    count = min(len(distinct) - 1, max(1, round(val_fraction * len(distinct))))
    return frozenset(distinct[:count])


def cut_text(text: str, *, val_fraction: float) -> tuple[str, str]:
    """Cut a text in two: the last `val_fraction` of its characters is for validation.

    Cuts at the last line break before that place, else at a space, else there. A text too short to cut is all for training.
    """
    place = round(len(text) * (1 - val_fraction))
    if val_fraction <= 0 or place <= 0:
        return text, ""
    for mark in ("\n", " "):
        found = text.rfind(mark, place - max(1, len(text) // 20), place)
        if found > 0:
            place = found + 1
            break
    head, tail = text[:place], text[place:]
    return (head, tail) if head.strip() and tail.strip() else (text, "")
