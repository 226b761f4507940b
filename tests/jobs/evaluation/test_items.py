"""Items of an evaluation: hashes by content and occurrence, whatever part of the rows is chosen."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from backend.domain.data.rows.mapping import canonical_json
from jobs.evaluation.items import choose_items, make_items

ROWS: list[dict[str, Any]] = [
    {"question": "two?", "answer": 1},
    {"question": "two?", "answer": True},  # equal in Python, another row in JSON
    {"messages": [{"role": "user", "content": "hi"}]},
    {"question": "two?", "answer": 1},
    {"messages": [{"role": "user", "content": "ho"}]},
    {"messages": [{"role": "user", "content": "hi"}]},
    {"question": "two?", "answer": 1},
]


def hash_every_row(rows: list[dict[str, Any]]) -> list[str]:
    """Return the hashes as they are defined, of all rows from first to last."""
    occurrences: Counter[str] = Counter()
    hashes = []
    for row in rows:
        digest = hashlib.sha256(canonical_json(row).encode()).hexdigest()
        occurrences[digest] += 1
        number = occurrences[digest]
        hashes.append(digest if number == 1 else hashlib.sha256(f"{digest} {number}".encode()).hexdigest())
    return hashes


def test_a_row_has_the_same_hash_whichever_rows_are_chosen_with_it() -> None:
    hashes = hash_every_row(ROWS)
    assert len(set(hashes)) == len(ROWS)
    assert [item.hash for item in make_items(ROWS, range(len(ROWS)))] == hashes
    for position in range(len(ROWS)):
        (item,) = make_items(ROWS, [position])
        assert (item.hash, item.position, item.row) == (hashes[position], position, ROWS[position])


def test_examples_are_never_scored_and_a_limit_keeps_the_order() -> None:
    examples, scored = choose_items(ROWS, shots=2, limit=3, seed=5)
    positions = [item.position for item in scored]
    assert (len(examples), len(scored)) == (2, 3)
    assert positions == sorted(positions)
    assert not {item.position for item in examples} & set(positions)
    assert choose_items(ROWS, shots=2, limit=3, seed=5) == (examples, scored)
