"""The tree of a conversation: the selected line, its versions, and the way to a leaf."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.serving.chat_tree import leaf_of_round, newest_leaf, next_round, selected_line


@dataclass(frozen=True)
class Node:
    id: str
    parent_id: str | None
    round: int = 0
    branch: int = 0


TREE = [
    Node("q", None),
    Node("a", "q"),
    Node("a2", "q", 1),
    Node("b2", "q", 1, 1),
    Node("q2", "b2"),
    Node("edited", None, 1),
    Node("answer", "edited"),
]


def test_the_line_shows_the_columns_and_versions_of_each_level() -> None:
    line = selected_line(TREE, "q2")
    assert [step.selected for step in line] == ["q", "b2", "q2"]
    assert line[1].messages == ("a2", "b2")
    assert [(step.round, step.rounds) for step in line] == [(0, (0, 1)), (1, (0, 1)), (0, (0,))]


def test_without_a_leaf_the_newest_edit_is_shown() -> None:
    assert [step.selected for step in selected_line(TREE, None)] == ["edited", "answer"]
    assert selected_line(TREE, "gone") == selected_line(TREE, None)
    assert selected_line([], None) == []


def test_another_version_leads_to_its_newest_leaf_by_the_column_that_was_answered() -> None:
    assert leaf_of_round(TREE, "edited", 0) == "q2"
    assert leaf_of_round(TREE, "b2", 0) == "a"
    assert leaf_of_round(TREE, "b2", 7) is None
    assert next_round(TREE, "q") == 2


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(0, 30))
def test_every_line_begins_at_a_root_and_each_step_answers_the_one_before(parents: list[int], pick: int) -> None:
    nodes: list[Node] = []
    for at, number in enumerate(parents):
        parent = f"m{number}" if number < at else None
        nodes.append(Node(f"m{at}", parent, next_round(nodes, parent)))
    for leaf in (None, f"m{pick}"):
        line = selected_line(nodes, leaf)
        by_id = {node.id: node for node in nodes}
        chain = [by_id[step.selected] for step in line]
        assert all(after.parent_id == before.id for before, after in pairwise(chain))
        assert not chain or chain[0].parent_id is None
        if nodes:
            assert newest_leaf(nodes, chain[-1].id) in by_id
