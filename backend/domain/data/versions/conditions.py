"""Fields of a canonical row that conditions can test, and the test. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.data.kinds import UNSPLIT_KINDS, DatasetKind
from backend.domain.data.rows.display import message_text, row_text
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.versions.changes import (
    Change,
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    RowCondition,
)
from backend.domain.wording import percent, plural
from backend.errors import InvalidInput

TURNS = "turns"
_SPEAKERS = ("system", "user", "assistant", "tool")
FIELDS_OF_KIND: dict[DatasetKind, tuple[str, ...]] = {
    DatasetKind.TEXT: ("text",),
    DatasetKind.INSTRUCTION: ("prompt", "completion"),
    DatasetKind.CHAT: (*_SPEAKERS, "tools", TURNS),
    DatasetKind.PREFERENCE: ("prompt", "chosen", "rejected", "tools", TURNS),
    DatasetKind.KTO: ("prompt", "completion", "label", "tools", TURNS),
    DatasetKind.BENCHMARK: ("question", "choices", "answer"),
    DatasetKind.PROMPTS: ("prompt",),
    DatasetKind.RECORDS: ("record",),
}
"""Fields of conditions and statistics. `turns` is a number; `label` is `good` or `bad`; the others are texts."""

TEST_WORDS = {
    "contains": "contains",
    "lacks": "does not contain",
    "equals": "is",
    "differs": "is not",
    "at_least": "is at least",
    "at_most": "is at most",
}


def _contents(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(message_text(message) for message in messages)


def field_text(row: Mapping[str, Any], field: str) -> str:
    """Return the text of a part of a row; empty if the row has none. An empty field means all of its text."""
    if not field:
        return row_text(row)
    if field in _SPEAKERS and "messages" in row:
        return _contents([message for message in row["messages"] if message["role"] == field])
    value = row.get(field)
    if field == "label":
        return "" if value is None else "good" if value else "bad"
    if field == "answer":
        return (
            "\n".join(row["answers"])
            if "answers" in row
            else str(row["choices"][row["answer"]])
            if "choices" in row
            else ""
        )
    if isinstance(value, list):
        return _contents(value) if value and isinstance(value[0], Mapping) else "\n".join(map(str, value))
    return value if isinstance(value, str) else ""


def num_turns(row: Mapping[str, Any]) -> int:
    """Count a row's messages; of a preference those of the prompt and of the longer side."""
    if "messages" in row:
        return len(row["messages"])
    prompt = row.get("prompt")
    before = len(prompt) if isinstance(prompt, list) else 0
    return before + max(
        (len(value) for side in ("chosen", "rejected", "completion") if isinstance(value := row.get(side), list)),
        default=0,
    )


def field_size(row: Mapping[str, Any], field: str) -> int:
    """Return the size of a part of a row: characters, or turns."""
    return num_turns(row) if field == TURNS else len(field_text(row, field))


def row_key(row: Mapping[str, Any]) -> str:
    """Return the part that two rows with different answers share: prompt or question; of others the beginning."""
    if "messages" in row:
        turns = row["messages"]
        last = max((place for place, message in enumerate(turns) if message["role"] == "assistant"), default=len(turns))
        return _contents(turns[:last])
    for field in ("prompt", "question"):
        if field in row:
            return field_text(row, field)
    return row_text(row)[:80]


def rows_kept(change: DropRows | KeepSample, *, train: int, val: int) -> npt.NDArray[np.bool_]:
    """Return by place (the train split first) whether a row stays. Raises InvalidInput for rows that are not there."""
    total = train + val
    if isinstance(change, KeepSample):
        if change.num_rows > total:
            raise InvalidInput(
                f"The version has {total:,} rows, so {change.num_rows:,} can't be drawn.",
                remedy=f"Draw at most {total:,}.",
                field="num_rows",
            )
        stays = np.zeros(total, dtype=bool)
        stays[np.random.default_rng(change.seed).choice(total, size=change.num_rows, replace=False)] = True
        return stays
    beyond = [place for place in change.train if place >= train] + [place for place in change.val if place >= val]
    if beyond:
        raise InvalidInput(
            f"There is no row {beyond[0]}: the version has {train:,} train and {val:,} val rows.",
            remedy="Rows are counted from 0 in each split.",
            field="rows",
        )
    stays = np.ones(total, dtype=bool)
    stays[list(change.train)] = False
    stays[[train + place for place in change.val]] = False
    return stays


def row_hash(row: Mapping[str, Any], *, loose: bool = False) -> int:
    """Return a 64-bit hash of a row's content; `loose` ignores case and spaces."""
    if loose:
        marks = [row[name] for name in ("label", "answer") if name in row]
        text = " ".join(row_text(row).casefold().split()) + f" {marks}"
    else:
        text = canonical_json(row)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def meets(row: Mapping[str, Any], condition: RowCondition) -> bool:
    """Return whether a row meets a condition."""
    if condition.test in ("at_least", "at_most"):
        size = field_size(row, condition.field)
        return size >= int(condition.value) if condition.test == "at_least" else size <= int(condition.value)
    text, value = field_text(row, condition.field), str(condition.value)
    if condition.field == TURNS:
        text = str(num_turns(row))
    if not condition.match_case:
        text, value = text.casefold(), value.casefold()
    matches = value in text if condition.test in ("contains", "lacks") else value.strip() == text.strip()
    return matches if condition.test in ("contains", "equals") else not matches


def check_change(change: Change, *, kind: DatasetKind) -> None:
    """Raise InvalidInput for a condition on a field that the kind lacks, or a split of a kind that is never split."""
    if isinstance(change, Filter):
        for condition in change.conditions:
            if condition.field and condition.field not in FIELDS_OF_KIND[kind]:
                have = ", ".join(FIELDS_OF_KIND[kind])
                raise InvalidInput(
                    f"Rows of kind {kind} have no field {condition.field!r}.",
                    remedy=f"They have {have}.",
                    field="field",
                )
    if change.change == "resplit" and kind in UNSPLIT_KINDS:
        raise InvalidInput(f"A dataset of kind {kind} has no validation split.", field="change")


def describe_condition(condition: RowCondition) -> str:
    """Describe a condition: `completion is at least 20 characters`, `text contains “Mr” (match case)`."""
    field = condition.field or "the whole row"
    number = condition.test in ("at_least", "at_most")
    value = (
        f"{int(condition.value):,} {'' if field == TURNS else 'characters'}".strip()
        if number
        else f"“{str(condition.value)[:80]}”"
    )
    case = " (match case)" if condition.match_case and not number else ""
    return f"{field} {TEST_WORDS[condition.test]} {value}{case}"


def describe_change(change: Change) -> str:
    """Describe a change for the lineage."""
    if isinstance(change, DropRows):
        count = len(set(change.train)) + len(set(change.val))
        return f"{count:,} listed {'row' if count == 1 else 'rows'} left out" + (
            f": {change.reason}" if change.reason else ""
        )
    if isinstance(change, DropDuplicates):
        return "equal rows left out" + (", also those that differ only in case and spaces" if change.loose else "")
    if isinstance(change, Filter):
        conditions = " and ".join(map(describe_condition, change.conditions))
        return f"only rows kept where {conditions}" if change.keep else f"rows left out where {conditions}"
    if isinstance(change, KeepSample):
        return f"{plural(change.num_rows, 'row')} drawn with seed {change.seed}"
    if isinstance(change, Merge):
        return f"rows of {change.other} added"
    return f"split again, {percent(change.val_fraction)} held out with seed {change.seed}"
