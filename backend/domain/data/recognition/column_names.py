"""Usual column names of each field, and the likely column of a missing field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

TEXT_NAMES = ("text", "content", "story", "document", "passage", "body", "article", "sentence", "raw_content", "code")
MESSAGES_NAMES = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
SYSTEM_NAMES = ("system", "system_prompt")
INPUT_NAMES = ("input", "context")
TOOLS_NAMES = ("tools", "functions", "available_tools")
HISTORY_NAMES = ("history",)
INSTANCES_NAMES = ("instances",)
PROMPT_NAMES = ("instruction", "prompt", "question", "query", "inputs", "user", "input", "text")
COMPLETION_NAMES = (
    "output",
    "completion",
    "response",
    "answer",
    "targets",
    "target",
    "assistant",
    "canonical_solution",
    "chosen",
    "reply",
    "gpt3_response",
)
CHOSEN_NAMES = (
    "chosen",
    "chosen_messages",
    "chosen_conversation",
    "chosen_conversations",
    "preferred",
    "chosen_response",
    "response_chosen",
    "winner_response",
    "better",
    "response_j",
    "preferred_output",
    "answer_chosen",
    "accepted",
)
REJECTED_NAMES = (
    "rejected",
    "rejected_messages",
    "rejected_conversation",
    "rejected_conversations",
    "dispreferred",
    "rejected_response",
    "response_rejected",
    "loser_response",
    "worse",
    "response_k",
    "non_preferred_output",
    "answer_rejected",
)
LABEL_NAMES = (
    "label",
    "kto_tag",
    "kto_label",
    "thumbs",
    "thumb",
    "thumbs_up",
    "feedback",
    "desirable",
    "is_desirable",
    "liked",
    "is_good",
    "upvoted",
    "score",
    "vote",
    "rating",
)
SIDE_NAMES = (
    ("response_a", "response_b"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("response_0", "response_1"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("output_a", "output_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
    ("result_x", "result_y"),
    ("response_x", "response_y"),
    ("text_a", "text_b"),
)
WINNER_NAMES = (
    "winner",
    "better_response_id",
    "preference",
    "preferred",
    "verdict",
    "overall_preference",
    "choice",
    "label",
)
QUESTION_NAMES = ("question", "question_stem", "query", "ctx", "prompt", "input", "goal", "sentence", "stem", "problem")
CHOICES_NAMES = ("choices", "options", "endings", "answers", "mc_choices")
ANSWER_NAMES = (
    "answer",
    "answerkey",
    "gold",
    "label",
    "correct_answer",
    "answer_index",
    "answer_idx",
    "target",
    "gold_index",
)
CORRECT_NAMES = ("best_answer", "correct", "sentence_good", "correct_answer")
INCORRECT_NAMES = ("incorrect_answers", "incorrect", "sentence_bad", "distractors")
ANSWERS_NAMES = ("answers", "answer", "target", "targets")
TURNS_NAMES = ("turns",)

MESSAGE_NAMES: dict[str, tuple[str, ...]] = {
    "message_id": ("message_id", "id"),
    "parent_id": ("parent_id", "parent_message_id", "parent"),
    "role": ("role", "author_role", "author", "from"),
    "content": ("text", "content", "body", "message"),
    "rank": ("rank",),
}
"""Columns of a table with one message a row."""

FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "text": TEXT_NAMES,
    "messages": MESSAGES_NAMES,
    "system": SYSTEM_NAMES,
    "input": INPUT_NAMES,
    "tools": TOOLS_NAMES,
    "history": HISTORY_NAMES,
    "prompt": PROMPT_NAMES,
    "completion": COMPLETION_NAMES,
    "chosen": CHOSEN_NAMES,
    "rejected": REJECTED_NAMES,
    "label": LABEL_NAMES,
    "winner": WINNER_NAMES,
    "question": QUESTION_NAMES,
    "choices": CHOICES_NAMES,
    "answer": ANSWER_NAMES,
    "answer_from_0": ANSWER_NAMES,
    "answer_from_1": ANSWER_NAMES,
    "answer_text": ANSWER_NAMES,
    "answers": ANSWERS_NAMES,
    "correct": CORRECT_NAMES,
    "incorrect": INCORRECT_NAMES,
    **MESSAGE_NAMES,
}
"""For each field of backend.domain.data.rows.mapping the usual names of its column, the most likely first."""

NEAR = 0.72  # difflib's ratio: `respons` is near `response` (0.93), `note` is not near `output` (0.40)


def plain_name(column: str) -> str:
    """Return a column's name in lower case with underscores, as the tables spell it."""
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def nearest_column(field: str, columns: Iterable[str], *, like: str = "") -> str | None:
    """Return the column most likely meant for a field, or None.

    A known name of the field comes first, then one that is spelled nearly like such a name or like `like`.
    """
    plain = {plain_name(column): column for column in columns}
    known = FIELD_NAMES.get(field, ())
    for name in (plain_name(like), *known):
        if name in plain:
            return plain[name]
    for name in (plain_name(like), *known) if like else known:
        near = difflib.get_close_matches(name, plain, n=1, cutoff=NEAR)
        if near:
            return plain[near[0]]
    return None


def describe_missing(column: str, field: str, others: Sequence[str]) -> str:
    """Return the reason for a missing column: the columns found instead, and the nearest of them."""
    if not others:
        return f"column `{column}` is missing (found: no other column)"
    near = nearest_column(field, others, like=column)
    listed = ", ".join(f"`{name}`" for name in others[:12]) + (
        f" and {len(others) - 12} more" if len(others) > 12 else ""
    )
    hint = "" if near is None else "; use it?" if len(others) == 1 else f"; use `{near}`?"
    return f"column `{column}` is missing (found: {listed}{hint})"
