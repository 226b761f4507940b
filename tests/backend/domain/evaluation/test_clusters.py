"""Items of one passage are one cluster, whatever names it."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.evaluation.clusters import cluster_values

PASSAGES = [
    f"Passage {n} tells at some length of the river, the mill and the miller's three daughters, one by one."
    for n in range(3)
]


@pytest.mark.parametrize(
    "rows",
    [
        [{"question": f"Q{n}?", "cluster": n % 3} for n in range(9)],
        [{"question": f"Q{n}?", "passage": PASSAGES[n % 3]} for n in range(9)],
        [{"question": f"{PASSAGES[n % 3]}\nQ{n}?"} for n in range(9)],
        [{"question": f"Q{n}?", "passage": PASSAGES[n % 3] + " " * (n // 3)} for n in range(9)],
        [{"question": " " * (n // 3) + f"{PASSAGES[n % 3]}\nQ{n}?\n"} for n in range(9)],
    ],
    ids=[
        "a column of clusters",
        "a passage",
        "a passage that an import put before the question",
        "spaces behind it",
        "spaces before it",
    ],
)
def test_items_of_one_passage_share_a_cluster(rows: list[dict[str, Any]]) -> None:
    values = cluster_values(rows)
    assert values is not None
    assert [values.index(value) for value in values] == [0, 1, 2] * 3


@pytest.mark.parametrize(
    "rows",
    [
        [{"question": f"Q{n}?"} for n in range(9)],
        [{"question": f"Q{n}?", "passage": f"{n}"} for n in range(9)],
        [{"question": f"{PASSAGES[0]}\nQ{n}?"} for n in range(9)],
    ],
    ids=["nothing shared", "a passage each", "one instruction before every question"],
)
def test_items_that_stand_alone_have_no_cluster(rows: list[dict[str, Any]]) -> None:
    assert cluster_values(rows) is None


def test_a_task_names_its_clusters_and_an_item_without_one_stands_alone() -> None:
    values = cluster_values([{}] * 4, ["a", "a", None, None])
    assert values is not None
    assert values[0] == values[1]
    assert len(set(values)) == 3


def test_clusters_are_the_same_numbers_in_every_evaluation_of_the_items() -> None:
    rows = [{"cluster": "x"}, {"cluster": "x"}, {"cluster": "y"}]
    whole, part = cluster_values(rows), cluster_values(rows[:2])
    assert whole is not None
    assert part == whole[:2]
    assert all(value == int(value) < 2**53 for value in whole)
