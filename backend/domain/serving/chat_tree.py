"""The tree of a conversation's messages: edits and regenerated answers are branches, of which one line is selected.
Pure rules.

Children of a message are numbered in rounds: an edit of a question and a regenerated answer begin a new round. Answers
of one round stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class TreeMessage(Protocol):
    """The fields of a message that the rules read."""

    @property
    def id(self) -> str:
        """Return its id."""

    @property
    def parent_id(self) -> str | None:
        """Return the message that it answers; None for the first."""

    @property
    def round(self) -> int:
        """Return its round among the children of its parent, from 0."""

    @property
    def branch(self) -> int:
        """Return its column within the round, from 0."""


M = TypeVar("M", bound=TreeMessage)


@dataclass(frozen=True)
class TreeLevel:
    """One level of the selected line: the messages of its round by column, and the rounds that exist beside it."""

    selected: str
    messages: tuple[str, ...]
    rounds: tuple[int, ...]
    round: int


def selected_line(messages: Sequence[M], leaf_id: str | None) -> list[TreeLevel]:
    """Return the line from the first message to a leaf; to the newest leaf for None or an unknown one."""
    by_id = {message.id: message for message in messages}
    leaf = by_id.get(leaf_id or "") or (by_id[newest_leaf(messages, None)] if messages else None)
    line: list[M] = []
    while leaf is not None and len(line) <= len(messages):
        line.append(leaf)
        leaf = by_id.get(leaf.parent_id or "")
    children = _children(messages)
    return [
        _step(message, children[message.parent_id if message.parent_id in by_id else None])
        for message in reversed(line)
    ]


def newest_leaf(messages: Sequence[M], start: str | None) -> str:
    """Return the leaf below a message (from the root for None) that newest rounds lead to. Of columns, the one that was
    answered wins.
    """
    children = _children(messages)
    at = start
    while below := children.get(at):
        newest = max(message.round for message in below)
        columns = sorted((message for message in below if message.round == newest), key=lambda message: message.branch)
        at = next((message.id for message in columns if children.get(message.id)), columns[0].id)
    return at or ""


def next_round(messages: Sequence[M], parent_id: str | None) -> int:
    """Return the number of a new round of children."""
    return max((message.round for message in messages if message.parent_id == parent_id), default=-1) + 1


def leaf_of_round(messages: Sequence[M], message_id: str, round_: int) -> str | None:
    """Return the leaf to select for another round beside a message; None if there is no such round."""
    parent = next((message.parent_id for message in messages if message.id == message_id), None)
    columns = sorted(
        (m for m in messages if m.parent_id == parent and m.round == round_), key=lambda message: message.branch
    )
    if not columns:
        return None
    answered = {message.parent_id for message in messages}
    return newest_leaf(messages, next((message.id for message in columns if message.id in answered), columns[0].id))


def _children(messages: Sequence[M]) -> Mapping[str | None, list[M]]:
    known = {message.id for message in messages}
    children: dict[str | None, list[M]] = {}
    for message in messages:
        children.setdefault(message.parent_id if message.parent_id in known else None, []).append(message)
    return children


def _step(message: M, siblings: Sequence[M]) -> TreeLevel:
    columns = sorted((other for other in siblings if other.round == message.round), key=lambda other: other.branch)
    return TreeLevel(
        selected=message.id,
        messages=tuple(other.id for other in columns),
        rounds=tuple(sorted({other.round for other in siblings})),
        round=message.round,
    )
