"""Dataset kinds, and the fields that a source's columns may be mapped to for each."""

from __future__ import annotations

from enum import StrEnum


class DatasetKind(StrEnum):
    """The form of a dataset's rows."""

    TEXT = "text"
    INSTRUCTION = "instruction"
    CHAT = "chat"
    PREFERENCE = "preference"
    KTO = "kto"
    BENCHMARK = "benchmark"
    PROMPTS = "prompts"
    RECORDS = "records"


MESSAGE_FIELDS = ("message_id", "parent_id", "role", "content", "rank")
"""The fields of a message table; `rank` may be missing."""

ANSWER_FIELDS = ("answer", "answer_from_0", "answer_from_1", "answer_text")
"""Fields of the right choice: however the file has it, or in the way that a person or the whole file settled."""

FIELDS: dict[DatasetKind, tuple[str, ...]] = {
    DatasetKind.TEXT: ("text",),
    DatasetKind.INSTRUCTION: ("prompt", "input", "completion", "system", "instances"),
    DatasetKind.CHAT: (
        "messages",
        "prompt",
        "input",
        "completion",
        "system",
        "tools",
        "history",
        "tree",
        *MESSAGE_FIELDS,
    ),
    DatasetKind.PREFERENCE: (
        "prompt",
        "input",
        "chosen",
        "rejected",
        "system",
        "tools",
        "first",
        "second",
        "winner",
        "tree",
        *MESSAGE_FIELDS,
    ),
    DatasetKind.KTO: ("prompt", "input", "completion", "messages", "label", "system", "tools"),
    DatasetKind.BENCHMARK: ("context", "question", "choices", *ANSWER_FIELDS, "answers", "correct", "incorrect"),
    DatasetKind.PROMPTS: ("prompt", "input"),
    DatasetKind.RECORDS: (),
}
"""Fields that a source column may be mapped to, per kind. Several columns may serve `choices`, `answers`, `incorrect`
and `winner`.

`tree` and the fields of a message table (`message_id` to `rank`) make several rows of one tree: see
backend.domain.data.rows.trees.
"""

REQUIRED: dict[DatasetKind, tuple[tuple[str, ...], ...]] = {
    DatasetKind.TEXT: (("text",),),
    DatasetKind.INSTRUCTION: (("prompt", "completion"), ("prompt", "instances")),
    DatasetKind.CHAT: (("messages",), ("prompt", "completion"), ("tree",), MESSAGE_FIELDS[:4]),
    DatasetKind.PREFERENCE: (("chosen", "rejected"), ("first", "second", "winner"), ("tree",), MESSAGE_FIELDS),
    DatasetKind.KTO: (("prompt", "completion", "label"), ("messages", "label")),
    DatasetKind.BENCHMARK: (
        *(("question", "choices", answer) for answer in ANSWER_FIELDS),
        ("question", "answers"),
        ("correct", "incorrect"),
    ),
    DatasetKind.PROMPTS: (("prompt",),),
    DatasetKind.RECORDS: ((),),
}
"""For each kind the sets of fields, any one of which is enough."""

OPTIONAL = frozenset({"input", "system", "context", "tools", "history", "rank"})
"""Fields whose column a row may lack."""

KINDS: dict[str, str] = {
    DatasetKind.TEXT: "Plain text for pre-training.",
    DatasetKind.INSTRUCTION: "Instructions with answers.",
    DatasetKind.CHAT: "Conversations of several turns.",
    DatasetKind.PREFERENCE: "Prompts with a chosen and a rejected answer.",
    DatasetKind.KTO: "Prompts with one answer each, labelled good or bad.",
    DatasetKind.BENCHMARK: "Questions with choices or with reference answers.",
    DatasetKind.PROMPTS: "Prompts without answers, for battles.",
    DatasetKind.RECORDS: "Rows as they are, for evaluations by a task and prompts with categories.",
}
"""One sentence about each kind, as forms and cards show it."""

TEXT_KINDS = (DatasetKind.TEXT, DatasetKind.INSTRUCTION, DatasetKind.CHAT, DatasetKind.PREFERENCE)
"""Kinds whose rows have a perplexity."""

UNSPLIT_KINDS = (DatasetKind.BENCHMARK, DatasetKind.PROMPTS, DatasetKind.RECORDS)
"""Kinds of which nothing is kept for validation."""

LINE_KINDS = (DatasetKind.PROMPTS, DatasetKind.RECORDS)
"""Kinds for which each line of a text file is a row."""

PROMPT_KINDS = (
    DatasetKind.PROMPTS,
    DatasetKind.CHAT,
    DatasetKind.INSTRUCTION,
    DatasetKind.BENCHMARK,
    DatasetKind.PREFERENCE,
    DatasetKind.KTO,
    DatasetKind.RECORDS,
)
"""Kinds whose rows hold a prompt, those of records where a column is called so."""
