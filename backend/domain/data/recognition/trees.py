"""Recognise message trees: nested, or a table with one message a row."""

from __future__ import annotations

from typing import Any

from backend.domain.data.kinds import MESSAGE_FIELDS, DatasetKind
from backend.domain.data.recognition.sample import Recognition, SampleRows
from backend.domain.data.rows.conversations import ROLES
from backend.domain.data.rows.trees import TREE, is_root


def detect_tree(sample: SampleRows) -> Recognition | None:
    """Recognise trees as conversations, one for each path from the root to a leaf."""
    mapping = _nested(sample) or _table(sample)
    if mapping is None:
        return None
    ranks = "; choose kind preference to compare answers by their rank instead" if _has_ranks(sample, mapping) else ""
    return Recognition(
        DatasetKind.CHAT,
        mapping,
        0.95,
        f"{_shape(mapping)}; each path from its root to a leaf is a conversation{ranks}",
    )


def detect_ranked_tree(sample: SampleRows) -> Recognition | None:
    """Recognise trees as preferences: of two answers to the same message the better-ranked one is chosen."""
    mapping = _nested(sample) or _table(sample)
    if mapping is None or not _has_ranks(sample, mapping):
        return None
    reason = f"{_shape(mapping)}; of two answers to one message, the better-ranked is chosen"
    return Recognition(DatasetKind.PREFERENCE, mapping, 0.9, reason)


def _nested(sample: SampleRows) -> dict[str, str] | None:
    column = next((name for name in sample.columns if sample.all(name, is_root)), None)
    return {column: TREE} if column else None


def _table(sample: SampleRows) -> dict[str, str] | None:
    columns = {field: sample.find_field(field) for field in MESSAGE_FIELDS}
    mapping = {column: field for field, column in columns.items() if column}
    role = columns["role"]
    if set(mapping.values()) < {"message_id", "parent_id", "role", "content"} or role is None:
        return None
    return mapping if sample.all(role, lambda value: str(value).lower() in ROLES) else None


def _shape(mapping: dict[str, str]) -> str:
    names = {field: column for column, field in mapping.items()}
    if TREE in names:
        return f"`{names[TREE]}` is the root of a message tree"
    return f"each row is a message of a tree (`{names['parent_id']}` names the message that it answers)"


def _has_ranks(sample: SampleRows, mapping: dict[str, str]) -> bool:
    names = {field: column for column, field in mapping.items()}
    if TREE in names:
        return any(_ranked(root) for root in sample.values(names[TREE]))
    return "rank" in names and any(value not in (None, "") for value in sample.values(names["rank"]))


def _ranked(root: Any) -> bool:
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if isinstance(message, dict):
            if message.get("rank") is not None:
                return True
            replies = message.get("replies")
            waiting += replies if isinstance(replies, list) else []
    return False
