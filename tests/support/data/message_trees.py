"""Message trees as Open Assistant publishes them, nested and as a table."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]


def message(id_: str, text: str, *replies: Message, role: str = "assistant", rank: int | None = None) -> Message:
    """Return one message with its replies."""
    return {"message_id": id_, "text": text, "role": role, "lang": "en", "rank": rank, "replies": list(replies)}


def tree(number: int = 0) -> Message:
    """Return a tree of two ranked answers; the better one is followed by a question with three answers, of which two
    are ranked.
    """
    n = f"{number}."
    follow_up = message(
        f"{n}u2",
        f"And why is it {number}?",
        message(f"{n}a3", f"Counting {number}.", rank=1),
        message(f"{n}a4", f"Arithmetic {number}.", rank=0),
        message(f"{n}a5", f"Unranked {number}."),
        role="prompter",
    )
    root = message(
        f"{n}u1",
        f"What is {number} + 0?",
        message(f"{n}a1", f"It is {number}.", follow_up, rank=0),
        message(f"{n}a2", f"Perhaps {number + 1}.", rank=1),
        role="prompter",
    )
    return {"message_tree_id": f"{n}u1", "tree_state": "ready_for_export", "prompt": root}


def table_rows(root: Message, *, parent: str | None = None) -> list[Message]:
    """Return the messages of a tree as rows of a table, parents first."""
    own = {key: value for key, value in root.items() if key != "replies"} | {"parent_id": parent}
    return [own, *(row for reply in root["replies"] for row in table_rows(reply, parent=root["message_id"]))]
