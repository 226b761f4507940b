"""Message trees as Open Assistant publishes them: conversations from root to leaf, preferences from ranked siblings.

    nested   {"message_tree_id": ..., "prompt": {"message_id": ..., "role": "prompter", "text": ..., "replies": [{...,
    "rank": 0}, ...]}} table    one row a message, with its id, the id of its parent (none for a root), role, text and
    rank

A lower rank is a better one. Source: Köpf et al. 2023, OpenAssistant Conversations, arXiv:2304.07327.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backend.domain.data.kinds import MESSAGE_FIELDS, DatasetKind
from backend.domain.data.rows.columns import read_column
from backend.domain.data.rows.conversations import CONTENT_KEYS, ROLE_KEYS, ROLES
from backend.domain.data.rows.problem import RowProblem, kind_of_value
from backend.domain.json_values import JsonObject

TREE = "tree"
"""The field of a nested tree's root."""
MAX_TURNS = 200_000
"""Limit of the turns in all rows of one tree; a tree of 2,500 messages, ten deep, has fewer."""
_ABSENT = object()
Tree = JsonObject


def is_message_table(mapping: Mapping[str, str]) -> bool:
    """Return whether a mapping is of a table whose rows are single messages of trees."""
    return "parent_id" in mapping.values()


def is_root(value: Any) -> bool:
    """Return whether a value is a message with replies below it."""
    return (
        isinstance(value, dict) and isinstance(value.get("replies"), list) and any(key in value for key in CONTENT_KEYS)
    )


def tree_rows(root: Any, *, kind: DatasetKind) -> Iterator[dict[str, object]]:
    """Yield the rows that a tree holds, in OpenAI messages: {"messages"} for chat, {"prompt", "chosen", "rejected"} for
    preference.

    A chat row is the path from the root to one leaf, a preference row two answers to the same messages of which one is
    ranked better. Raises RowProblem for what is no tree, for one too large, and for one without ranks where preferences
    are asked for.
    """
    if not isinstance(root, dict):
        raise RowProblem(f"`{TREE}` holds {kind_of_value(root)} where a message with replies is expected")
    if kind is DatasetKind.PREFERENCE:
        pairs = [(path, pair) for path in _paths(root) for pair in _ranked_pairs(path[-1])]
        if not pairs:
            raise RowProblem("no two answers to the same message have different ranks, so nothing is preferred")
        _check_size(sum(len(path) + 2 for path, _ in pairs))
        for path, (better, worse) in pairs:
            yield {"prompt": _turns(path), "chosen": _turns([better]), "rejected": _turns([worse])}
        return
    leaves = [path for path in _paths(root) if not _replies(path[-1])]
    for path in leaves:
        yield {"messages": _turns(path)}


def _check_size(turns: int) -> None:
    if turns > MAX_TURNS:
        raise RowProblem(f"the paths of this tree hold more than {MAX_TURNS:,} turns; split it into smaller trees")


def _paths(root: Tree) -> Iterator[list[Tree]]:
    """Yield the path from the root to each message, depth first, in the order of the replies."""
    turns = 0
    waiting: list[tuple[Tree, list[Tree]]] = [(root, [])]
    while waiting:
        message, above = waiting.pop()
        path = [*above, message]
        turns += len(path)
        _check_size(turns)
        yield path
        waiting += [(reply, path) for reply in reversed(_replies(message))]


def _replies(message: Tree) -> list[Tree]:
    replies = message.get("replies")
    if replies is None:
        return []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowProblem(f"`replies` of the message {_name(message)} is not a list of messages")
    return replies


def _name(message: Tree) -> str:
    return repr(message.get("message_id", message.get("id", "without an id")))[:60]


def _turns(path: Sequence[Tree]) -> list[JsonObject]:
    """Return messages without the tree's fields: ids, ranks, labels, replies."""
    keys = (*ROLE_KEYS, *CONTENT_KEYS)
    return [{key: message[key] for key in keys if message.get(key) is not None} for message in path]


def _ranked_pairs(parent: Tree) -> list[tuple[Tree, Tree]]:
    """Return each pair of the assistant's replies of which the first is ranked better than the second."""
    ranked = [
        (rank, reply)
        for reply in _replies(parent)
        if _is_answer(reply) and (rank := rank_of(reply.get("rank"))) is not None
    ]
    ranked.sort(key=lambda entry: entry[0])
    return [
        (better, worse) for i, (rank, better) in enumerate(ranked) for other, worse in ranked[i + 1 :] if rank < other
    ]


def _is_answer(message: Tree) -> bool:
    role = next((message[key] for key in ROLE_KEYS if message.get(key) is not None), None)
    return ROLES.get(str(role).lower()) == "assistant"


def rank_of(value: Any) -> float | None:
    """Return a rank as a number; None where there is none. Raises RowProblem for what is neither."""
    if value is None or value == "":
        return None
    try:
        rank = float(value) if not isinstance(value, bool) else math.inf
    except (TypeError, ValueError):
        rank = math.inf
    if math.isnan(rank):
        return None
    if math.isinf(rank):
        raise RowProblem(f"`rank` holds {str(value)[:40]!r} where a number is expected")
    return rank


def read_message(row: Mapping[str, Any], *, mapping: Mapping[str, str]) -> tuple[str, str | None, Tree]:
    """Return (id, id of the parent or None, message without replies) of a row of a message table.

    Raises RowProblem for a row without an id or a column of the mapping.
    """
    columns = {field: column for column, field in mapping.items()}
    values = {field: read_column(row, column, _ABSENT) for field, column in columns.items()}
    missing = next((columns[f] for f in MESSAGE_FIELDS if f != "rank" and values.get(f) is _ABSENT), None)
    if missing is not None:
        raise RowProblem(f"column `{missing}` is missing (found: {', '.join(f'`{name}`' for name in list(row)[:12])})")
    message_id, parent = values["message_id"], values["parent_id"]
    if not _is_id(message_id):
        raise RowProblem(
            f"`{columns['message_id']}` holds {kind_of_value(message_id)} where the message's id is expected"
        )
    if parent not in (None, "") and not _is_id(parent):
        raise RowProblem(f"`{columns['parent_id']}` holds {kind_of_value(parent)} where the parent's id is expected")
    rank = rank_of(None if values.get("rank") is _ABSENT else values.get("rank"))
    message = {
        "message_id": str(message_id),
        "role": values["role"],
        "content": values["content"],
        "rank": rank,
    }
    return str(message_id), None if parent in (None, "") else str(parent), message


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, int) and not isinstance(value, bool))


def sample_trees(rows: Sequence[Mapping[str, Any]], *, mapping: Mapping[str, str]) -> list[Tree | RowProblem]:
    """Return the trees among the first rows of a message table, and the rows that can't be read.

    Messages whose parent is further on are left out: only the whole table has their place (jobs.data.message_trees).
    """
    trees: list[Tree | RowProblem] = []
    messages: dict[str, Tree] = {}
    parents: dict[str, str] = {}
    for row in rows:
        try:
            id_, parent, message = read_message(row, mapping=mapping)
        except RowProblem as problem:
            trees.append(problem)
            continue
        messages.setdefault(id_, message)
        if parent is None:
            trees.append(message)
        else:
            parents.setdefault(id_, parent)
    for id_, parent in parents.items():
        if parent in messages:
            messages[parent].setdefault("replies", []).append(messages[id_])
    return trees
