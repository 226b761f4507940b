"""Chats: settings of the next turn as the body of a request, and the tree of a conversation: the selected line, its
versions, and the way to a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.domain.serving.chat import ChatSettings, leaf_of_round, newest_leaf, next_round, selected_line
from backend.domain.serving.protocol import ChatMessage
from backend.gateway.dialects.completions import ChatBody
from pages.components.serving.chat_form import active_settings, usual_sampling

FILTERS = {
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
}


def body(**values: object) -> dict[str, object]:
    """The body that settings make of one message."""
    settings = ChatSettings.model_validate({"endpoints": ("tales",), **values})
    return settings.body("tales", (ChatMessage(role="user", content="Hello"),))


def test_filters_and_penalties_are_sent_only_if_they_are_not_off() -> None:
    assert set(body()) == {"model", "messages", "temperature", "top_p", "max_tokens"}
    sent = body(**FILTERS, stop=("\n", "###"))
    assert {name: sent[name] for name in FILTERS} == FILTERS
    assert sent["stop"] == ["\n", "###"]


def test_the_gateway_takes_every_setting() -> None:
    taken = ChatBody.model_validate(body(**FILTERS, stop=("###",), seed=3, system="Be brief."))
    assert {name: getattr(taken, name) for name in FILTERS} == FILTERS


@pytest.mark.parametrize("values", [{"top_k": -1}, {"min_p": 1.5}, {"repetition_penalty": 0}, {"stop": ("",)}])
def test_settings_out_of_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        body(**values)


def test_settings_that_are_not_as_usual_are_chips() -> None:
    def chips(**values: object) -> dict[str, str]:
        settings = ChatSettings.model_validate({"endpoints": ("tales",), "temperature": 0.7, **values})
        return active_settings(settings, temperature=0.7)

    assert chips() == {}
    assert chips(temperature=0.0, max_tokens=1, top_k=40, stop=("\n",)) == {
        "temperature": "Greedy",
        "max_tokens": "At most 1 token",
        "top_k": "Top k 40",
        "stop": "Stops at “\\n”",
    }


def test_usual_sampling_is_said_in_words_without_what_is_a_chip() -> None:
    settings = ChatSettings(endpoints=("tales",), temperature=0.7)
    assert usual_sampling(settings, {}) == "Temperature 0.7 · top p 0.95 · at most 160 tokens"
    assert usual_sampling(settings, {"temperature": "Greedy", "max_tokens": "At most 1 token"}) == "Top p 0.95"


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
