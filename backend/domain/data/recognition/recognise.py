"""Recognise the kind of dataset of sample rows, and map their columns. The result is a guess with a reason."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from backend.domain.data.kinds import MESSAGE_FIELDS, REQUIRED, DatasetKind
from backend.domain.data.parsing.json_stream import STRING_COLUMN
from backend.domain.data.recognition.benchmarks import (
    detect_code,
    detect_generation,
    detect_headless_multiple_choice,
    detect_multiple_choice,
)
from backend.domain.data.recognition.column_names import nearest_column
from backend.domain.data.recognition.records import detect_records
from backend.domain.data.recognition.sample import Recognition, SampleRows
from backend.domain.data.recognition.training_rows import (
    detect_answered_turns,
    detect_chat,
    detect_compared,
    detect_instruction,
    detect_kto,
    detect_preference,
    detect_prompts,
    detect_text,
    detect_unread_turns,
)
from backend.domain.data.rows.columns import read_column
from backend.domain.data.rows.conversations import ROLES
from backend.domain.data.rows.mapping import map_sample, settle_answers
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.trees import TREE, is_root
from backend.errors import InvalidInput


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


MAX_PROMPT = 2000  # characters
_REQUEST = re.compile(
    r"(who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|will|would|should|may|might|"
    r"have|has|am|write|explain|describe|list|give|tell|summari[sz]e|translate|compare|create|generate|make|suggest|"
    r"name|find|solve|calculate|compute|show|help|provide|convert|classify|identify|rewrite|edit|correct|design|"
    r"develop|draft|outline|propose|plan|imagine|pretend|act|answer|define|discuss|analy[sz]e|evaluate|recommend|"
    r"implement|simplify|compose|complete|continue|please|prove|derive|count|extract|teach|instruct|devise|produce|"
    r"prepare|invent|brainstorm|construct|argue|choose|read|say|think|let's|i want|i need|you are)\b",
    re.IGNORECASE,
)


def detect_strings(sample: SampleRows) -> Recognition | None:
    """Recognise a list of strings, as prompts or text; the user may choose the other kind."""
    if sample.columns != [STRING_COLUMN]:
        return None
    texts = [value for value in sample.values(STRING_COLUMN) if isinstance(value, str) and value.strip()]
    if not texts:
        return None
    requests = sum(map(reads_as_request, texts))
    if requests >= 0.6 * len(texts):
        reason = f"a list of strings, of which {requests} of the first {len(texts)} read as questions or instructions"
        return Recognition(
            DatasetKind.PROMPTS, {STRING_COLUMN: "prompt"}, 0.7, f"{reason}; choose kind text to train on them"
        )
    reason = f"a list of strings, of which {requests} of the first {len(texts)} read as questions or instructions"
    return Recognition(
        DatasetKind.TEXT, {STRING_COLUMN: "text"}, 0.7, f"{reason}; choose kind prompts to have them answered"
    )


def reads_as_request(text: str) -> bool:
    """Return whether a text looks like a prompt: it ends in a question mark, or begins as a question or an instruction
    does.

    >>> reads_as_request("Explain how a heat pump works."), reads_as_request("The heat pump hummed.")
    (True, False)
    """
    stripped = text.strip()
    if len(stripped) > MAX_PROMPT:
        return False
    return stripped.endswith("?") or _REQUEST.match(stripped) is not None


MAX_SAMPLED = 500  # a few trees hold very many conversations
_DETECTORS = (
    detect_strings,
    detect_records,
    detect_tree,
    detect_ranked_tree,
    detect_preference,
    detect_compared,
    detect_multiple_choice,
    detect_headless_multiple_choice,
    detect_code,
    detect_kto,
    detect_answered_turns,
    detect_chat,
    detect_generation,
    detect_instruction,
    detect_prompts,
    detect_text,
)


LOOKED_FOR = (
    "turns (messages, conversations, dialogue)",
    "a chosen and a rejected answer (chosen, rejected)",
    "two answers and the better one (response_a, response_b, winner)",
    "an answer and its label (completion, label)",
    "a question with choices or short answers (question, choices, answer)",
    "a prompt with its answer (instruction, prompt or question; output, completion or response)",
    "a prompt (prompt, instruction, question)",
    "a message tree (replies; message_id, parent_id)",
    "text (text, content, document, story)",
)
"""The columns, with their usual names, that are searched for before a file is read as text."""


def recognise(rows: Sequence[Mapping[str, Any]], *, kind: DatasetKind | None = None) -> Recognition:
    """Return the kind of some sample rows with the mapping of their columns; with `kind`, map the columns for that
    kind. Columns of nested objects are searched only where those of the rows themselves say nothing.

    Raises InvalidInput if there are no rows or no column fits, naming the nearest column.
    """
    if not rows:
        raise InvalidInput(
            "There is no row to recognise.",
            remedy="Check that the file is not empty and that its first lines are valid.",
        )
    sample = SampleRows(rows)
    candidates = _candidates(sample, kind)
    deeper = SampleRows(rows, nested=True)
    if any("." in column for column in deeper.columns) and not any(_is_named(sample, one) for one in candidates):
        nested = _candidates(deeper, kind)
        candidates = [one for one in nested if _is_named(deeper, one)] or candidates or nested
        sample = deeper
    if not candidates:
        columns = ", ".join(f"`{column}`" for column in sample.columns[:20]) or "none"
        as_kind = f" as kind {kind}" if kind else ""
        raise InvalidInput(
            f"No column can be used{as_kind} (found: {columns}).{_nearest(sample, kind)}",
            remedy="Map the columns by hand.",
            field="mapping",
        )
    return _counted_from(rows, max(candidates, key=lambda recognition: _share_that_works(sample, recognition)))


def _candidates(sample: SampleRows, kind: DatasetKind | None) -> list[Recognition]:
    candidates = [recognition for detector in _DETECTORS if (recognition := detector(sample))]
    if kind is None and (pairs := detect_preference(sample)) is not None and _never_differ(sample, pairs):
        reason = f"{pairs.reason}, and the same in every row: there is nothing to prefer"
        return [replace(pairs, reason=reason)]
    if kind is None and (turns := detect_unread_turns(sample)) is not None:
        return [one for one in candidates if one.kind is not DatasetKind.TEXT] or [turns]
    if kind is not None:
        return [recognition for recognition in (*candidates, *_as_kind(sample, kind)) if recognition.kind is kind]
    return candidates


def _never_differ(sample: SampleRows, pairs: Recognition) -> bool:
    """Return whether the chosen answer is the rejected one in every row: such rows are pairs, of no use."""
    columns = {field: column for column, field in pairs.mapping.items()}
    answers = [(read_column(row, columns["chosen"]), read_column(row, columns["rejected"])) for row in sample.rows]
    return all(chosen is not None and chosen == rejected for chosen, rejected in answers)


def _is_named(sample: SampleRows, recognition: Recognition) -> bool:
    """Return whether the names of columns led to it, and some row fits."""
    return not recognition.is_fallback and _share_that_works(sample, recognition) > 0


def _counted_from(rows: Sequence[Mapping[str, Any]], recognition: Recognition) -> Recognition:
    """Return the recognition, with answers counted from 1 where these rows prove it; else the import decides."""
    with suppress(InvalidInput):
        mapping = settle_answers(rows, recognition.mapping, kind=recognition.kind)
        if "answer_from_1" in mapping.values():
            return replace(recognition, mapping=mapping)
    return recognition


def _as_kind(sample: SampleRows, kind: DatasetKind) -> list[Recognition]:
    """Return mappings that are never guessed, but possible for a chosen kind."""
    if kind is DatasetKind.RECORDS:
        return [Recognition(kind, {}, 1.0, "every column is kept")]
    pair = detect_instruction(sample)
    if kind is DatasetKind.CHAT and pair:
        return [Recognition(kind, pair.mapping, 0.7, f"{pair.reason}; each row becomes a conversation of two turns")]
    if kind is DatasetKind.PROMPTS:
        column = sample.find_field("prompt", "messages") or sample.find((STRING_COLUMN,))
        return [Recognition(kind, {column: "prompt"}, 0.6, f"`{column}` asks")] if column else []
    if kind is DatasetKind.BENCHMARK:
        question, answer = sample.find_field("prompt"), sample.find_field("answers", "completion")
        if question and answer and question != answer:
            return [
                Recognition(
                    kind,
                    {question: "question", answer: "answers"},
                    0.5,
                    f"`{question}` with the expected answer in `{answer}`",
                )
            ]
    return _nearly(sample, kind)


def _near_columns(sample: SampleRows, fields: Sequence[str]) -> dict[str, str]:
    """Return column -> field for fields with a column of a similar name; each column is used once."""
    mapping: dict[str, str] = {}
    for field in fields:
        column = nearest_column(field, [name for name in sample.columns if name not in mapping])
        if column is not None:
            mapping[column] = field
    return mapping


def _nearly(sample: SampleRows, kind: DatasetKind) -> list[Recognition]:
    """Return a mapping of columns whose names are close to those of the kind's fields."""
    for needed in REQUIRED[kind]:
        mapping = _near_columns(sample, needed)
        if set(mapping.values()) == set(needed):
            read = ", ".join(f"`{column}` as `{field}`" for column, field in mapping.items())
            return [Recognition(kind, mapping, 0.4, f"no column has the usual name; the nearest are {read}")]
    return []


def _nearest(sample: SampleRows, kind: DatasetKind | None) -> str:
    """Return a sentence that names the fields with a column and the one without."""
    if kind is None:
        return ""
    needed = max(REQUIRED[kind], key=lambda fields: len(_near_columns(sample, fields)) / len(fields))
    mapping = _near_columns(sample, needed)
    missing = [field for field in needed if field not in mapping.values()]
    rest = [f"`{column}`" for column in sample.columns if column not in mapping and sample.is_text(column)]
    if not mapping or not missing:
        return ""
    hint = f"; use {rest[0]}?" if len(rest) == 1 else ""
    return f" {', '.join(f'`{c}` serves as `{f}`' for c, f in mapping.items())}, and nothing as `{missing[0]}`{hint}."


def _share_that_works(sample: SampleRows, recognition: Recognition) -> float:
    """Return the share of usable rows; 1 from a half on, so that the earlier detector wins (max keeps the first)."""
    mapped = map_sample(sample.rows, kind=recognition.kind, mapping=recognition.mapping)
    parts = [part for _, part in itertools.islice(mapped, MAX_SAMPLED)]
    share = sum(not isinstance(part, RowProblem) for part in parts) / max(1, len(parts))
    return 1.0 if share >= 0.5 else share
