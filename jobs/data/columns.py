"""Convert whole columns of source rows to canonical ones, equal to backend.domain.data.rows.mapping row by row. A plan
covers the usual spellings. It returns None for any block with an irregular row (empty, of a mixed type, with a NUL,
with tool calls); that block is then read row by row, which reports each bad row. So a plan must be at least as strict
as the mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.conversations import (
    CALL_KEYS,
    CONTENT_KEYS,
    REASONING_KEYS,
    ROLE_KEYS,
    ROLES,
    is_transcript,
)
from jobs.data.row_keys import one_array, string_parts
from jobs.data.schemas import CALLS, MESSAGE, SCHEMAS

_TEXT = pyarrow.string()
_PLAIN_ROLES = {name: role for name, role in ROLES.items() if role != "tool" and name != "function_call"}
_MAY_START_BLANK = np.zeros(256, dtype=bool)
_MAY_START_BLANK[:0x21] = True
_MAY_START_BLANK[[0xC2, 0xE1, 0xE2, 0xE3]] = True  # the first bytes of the spaces beyond ASCII

Bools = npt.NDArray[np.bool_]


class _NotPlain(Exception):
    """The block has an irregular row."""


@dataclass(frozen=True)
class Turns:
    """Spelling of a column of turns: the keys of role and text, and those that must be absent."""

    role: str
    content: str
    absent: tuple[str, ...]

    @property
    def type(self) -> pyarrow.DataType:
        """The Arrow type of the column."""
        # a null column parses a third faster than an empty text column, and rejects any value
        absent = [(key, pyarrow.null()) for key in self.absent]
        return pyarrow.list_(pyarrow.struct([(self.role, _TEXT), (self.content, _TEXT), *absent]))


@dataclass(frozen=True)
class ColumnPlan:
    """Conversion of a source's columns to those of a kind. `columns` goes from field to source column, `turns` from
    field to spelling.
    """

    kind: DatasetKind
    columns: dict[str, str]
    turns: dict[str, Turns]

    def schema(self) -> pyarrow.Schema:
        """The source's columns that are read, with the types they must have."""
        return pyarrow.schema([(column, self._type(field)) for field, column in self.columns.items()])

    def _type(self, field: str) -> pyarrow.DataType:
        if field in self.turns:
            return self.turns[field].type
        return pyarrow.bool_() if field == "label" else _TEXT

    def apply(self, table: pyarrow.Table, *, is_checked: bool = False) -> pyarrow.Table | None:
        """Return the canonical rows of a block, or None if any row is irregular. `is_checked`: all texts are known to
        be UTF-8 without NUL characters.
        """
        if not table.num_rows:
            return SCHEMAS[self.kind].empty_table()
        try:
            block = _Block(table, self, is_checked=is_checked)
            columns = _BUILDERS[self.kind](block)
            arrays = [
                (
                    columns.get(field.name)
                    if columns.get(field.name) is not None
                    else pyarrow.nulls(table.num_rows, field.type)
                )
                for field in SCHEMAS[self.kind]
            ]
            return pyarrow.Table.from_arrays(arrays, schema=SCHEMAS[self.kind])
        except (_NotPlain, pyarrow.ArrowException):
            return None


def plan_columns(
    sample: Sequence[Mapping[str, Any]], *, kind: DatasetKind, mapping: Mapping[str, str]
) -> ColumnPlan | None:
    """Return a plan from the first rows of a source; None if its spelling is unusual."""
    columns = {field: column for column, field in mapping.items()}
    if kind not in _BUILDERS or len(columns) < len(mapping) or not set(columns) <= _FIELDS[kind]:
        return None
    if any("." in column and not all(column in row for row in sample) for column in mapping):
        return None  # a path into a nested object
    turns: dict[str, Turns] = {}
    for field, column in columns.items():
        spelling = _turns_of([row[column] for row in sample if row.get(column) is not None])
        if spelling is not None:
            turns[field] = spelling
    return ColumnPlan(kind, columns, turns)


def _turns_of(values: Sequence[Any]) -> Turns | None:
    """Return the spelling of the turns in a column; None if it holds none."""
    turns = [turn for value in values if isinstance(value, list) for turn in value if isinstance(turn, dict)]
    keys = {key for turn in turns for key in turn}
    role = next((key for key in ROLE_KEYS if key in keys), None)
    content = next((key for key in CONTENT_KEYS if key in keys), None)
    if role is None or content is None:
        return None
    before = (*ROLE_KEYS[: ROLE_KEYS.index(role)], *CONTENT_KEYS[: CONTENT_KEYS.index(content)])
    return Turns(role, content, (*before, *CALL_KEYS, *REASONING_KEYS))


class _Block:
    """The source columns of some rows, checked on access. Raises _NotPlain."""

    def __init__(self, table: pyarrow.Table, plan: ColumnPlan, *, is_checked: bool) -> None:
        self._table, self._plan, self._is_checked = table, plan, is_checked
        self.num_rows = table.num_rows

    def has(self, field: str) -> bool:
        """Return whether the field has a column with a value."""
        column = self._column(field)
        return column is not None and column.null_count < len(column)

    def is_turns(self, field: str) -> bool:
        """Return whether the field holds turns."""
        return field in self._plan.turns

    def _column(self, field: str) -> pyarrow.Array | None:
        name = self._plan.columns.get(field)
        column = None
        if name is not None and name in self._table.column_names:
            column = one_array(self._table.column(name))
        if name is not None and "." in name and (column is None or column.null_count):
            raise _NotPlain  # in some rows it may be the path into a nested object
        return column

    def text(self, field: str) -> pyarrow.Array:
        """A non-blank text in every row."""
        column = self._column(field)
        if column is None or self.is_turns(field):
            raise _NotPlain
        texts = _as_text(column)
        if texts.null_count or blank(texts).any():
            raise _NotPlain
        return texts if self._is_checked else _checked(texts)

    def prompt(self) -> pyarrow.Array:
        """The prompt, followed by Alpaca's input."""
        prompt = self.text("prompt")
        if not self.has("input"):
            return prompt
        column = _as_text(self._column("input"))
        extra = compute.fill_null(column, "") if column.null_count else column
        if not self._is_checked:
            _checked(extra)
        empty = blank(extra)
        if empty.all():
            return prompt
        if compute.binary_length(extra).to_numpy()[empty].any():  # white space
            extra = compute.if_else(pyarrow.array(empty), "", extra)
        between = pyarrow.array(["\n\n", ""]).take(pyarrow.array(empty.view(np.uint8)))
        return compute.binary_join_element_wise(prompt, between, extra, "")

    def require_prompts(self) -> None:
        """Raise _NotPlain if prompts are mapped and a row has none."""
        column = self._column("prompt")
        if "prompt" in self._plan.columns and (column is None or column.null_count):
            raise _NotPlain

    def require_no_system(self) -> None:
        """Raise _NotPlain if a row has a system prompt, tools or a history."""
        for field in ("system", "tools", "history"):
            column = self._column(field)
            if (
                column is not None
                and column.null_count < len(column)
                and not blank(_as_text(compute.fill_null(column, ""))).all()
            ):
                raise _NotPlain

    def label(self) -> pyarrow.Array:
        """A truth value in every row."""
        column = self._column("label")
        if column is None or column.null_count or not pyarrow.types.is_boolean(column.type):
            raise _NotPlain
        return column

    def messages(self, field: str) -> _Messages:
        """Turns in every row, with known roles and only text."""
        column = self._column(field)
        if column is None or not self.is_turns(field):
            raise _NotPlain
        return _Messages(column, self._plan.turns[field])


class _Messages:
    """Flattened turns of consecutive rows: row i has those from `offsets[i]` to `offsets[i + 1]`."""

    def __init__(self, column: pyarrow.Array, turns: Turns) -> None:
        if not (pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)) or column.null_count:
            raise _NotPlain
        flat = column.flatten()
        if not pyarrow.types.is_struct(flat.type) or flat.null_count:
            raise _NotPlain
        names = [field.name for field in flat.type]
        for name in turns.absent:
            if name in names and compute.struct_field(flat, name).null_count < len(flat):
                raise _NotPlain
        if turns.role not in names or turns.content not in names:
            raise _NotPlain
        lengths = np.asarray(compute.list_value_length(column)).astype(np.int64)
        if not lengths.all():
            raise _NotPlain
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.row_of = np.repeat(np.arange(len(lengths)), lengths)
        self.role, self.is_user, self.is_assistant = _plain_roles(_as_text(compute.struct_field(flat, turns.role)))
        self.content = _checked(_as_text(compute.struct_field(flat, turns.content)))
        if self.content.null_count:
            raise _NotPlain
        self.is_blank = blank(self.content)

    @property
    def num_rows(self) -> int:
        """Rows that the turns belong to."""
        return len(self.offsets) - 1

    def count(self, turns: Bools) -> npt.NDArray[np.int64]:
        """Count the marked turns of each row."""
        return np.bincount(self.row_of[turns], minlength=self.num_rows)

    def require_conversations(self) -> None:
        """Raise _NotPlain unless a user's turn precedes the last answer, none is blank, and some answer is not."""
        last = np.full(self.num_rows, -1)
        places = np.flatnonzero(self.is_assistant)
        last[self.row_of[places]] = places  # the last of equal rows stays
        first = np.full(self.num_rows, len(self.row_of))
        places = np.flatnonzero(self.is_user)[::-1]
        first[self.row_of[places]] = places
        if (
            (first >= last).any()
            or (self.is_user & self.is_blank).any()
            or not self.count(self.is_assistant & ~self.is_blank).all()
        ):
            raise _NotPlain

    def lists(self, keep: Bools | None = None) -> pyarrow.Array:
        """Return the turns (or those to keep) as canonical messages, a list per row."""
        role, content, lengths = self.role, self.content, np.diff(self.offsets)
        if keep is not None:
            mask = pyarrow.array(keep)
            role, content, lengths = role.filter(mask), content.filter(mask), self.count(keep)
        return _lists(role, content, np.concatenate([[0], np.cumsum(lengths)]))


def _lists(role: pyarrow.Array, content: pyarrow.Array, offsets: npt.NDArray[np.int64]) -> pyarrow.Array:
    count = len(role)
    arrays = [role, content, pyarrow.nulls(count, CALLS), pyarrow.nulls(count, _TEXT), pyarrow.nulls(count, _TEXT)]
    flat = pyarrow.StructArray.from_arrays(arrays, fields=list(MESSAGE))
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets.astype(np.int32)), flat)


def _single(content: pyarrow.Array, role: str) -> pyarrow.Array:
    """Return one message per row."""
    roles = pyarrow.array([role]).take(pyarrow.array(np.zeros(len(content), dtype=np.int32)))
    return _lists(roles, content, np.arange(len(content) + 1))


def _plain_roles(stated: pyarrow.Array) -> tuple[pyarrow.Array, Bools, Bools]:
    """Return the canonical roles, and masks of the user's and the assistant's turns."""
    if stated.null_count:
        raise _NotPlain
    coded = stated.dictionary_encode()
    spelled = coded.dictionary.to_pylist()
    names = [_PLAIN_ROLES.get(name.lower()) for name in spelled]
    if None in names:
        raise _NotPlain
    roles = stated if names == spelled else pyarrow.array(names, _TEXT).take(coded.indices)
    codes = coded.indices.to_numpy()
    is_user, is_assistant = (
        np.array([name == role for name in names], dtype=bool)[codes] for role in ("user", "assistant")
    )
    return roles, is_user, is_assistant


def _as_text(column: pyarrow.Array | None) -> pyarrow.Array:
    if column is None:
        raise _NotPlain
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        kind, column = kind.value_type, column.dictionary_decode()
    if pyarrow.types.is_string(kind):
        return column
    if pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind) or pyarrow.types.is_null(kind):
        return column.cast(_TEXT)
    raise _NotPlain


def _checked(texts: pyarrow.Array) -> pyarrow.Array:
    """Raise _NotPlain for bytes that are not UTF-8, and NUL characters."""
    texts.validate(full=True)
    data = np.frombuffer(string_parts(texts)[1], dtype=np.uint8)
    if len(data) and not data.min():
        raise _NotPlain
    return texts


def blank(texts: pyarrow.Array) -> Bools:
    """Return for each text (no nulls) whether it is blank, as Python's `strip` defines it."""
    offsets, data = string_parts(texts)
    lengths = np.diff(offsets)
    result: Bools = lengths == 0
    filled = np.flatnonzero(~result)
    first = np.frombuffer(data, dtype=np.uint8)[offsets[:-1][filled]]
    for place in filled[_MAY_START_BLANK[first]].tolist():
        result[place] = not bytes(data[offsets[place] : offsets[place + 1]]).decode("utf-8", "replace").strip()
    return result


def _require_no_transcripts(texts: pyarrow.Array) -> None:
    """Raise _NotPlain for hh-rlhf's transcripts."""
    offsets, data = string_parts(texts)
    characters = np.frombuffer(data, dtype=np.uint8)
    first = characters[offsets[:-1]]  # no text is empty here
    second = characters[np.minimum(offsets[:-1] + 1, len(characters) - 1)]
    for place in np.flatnonzero(_MAY_START_BLANK[first] | ((first == ord("H")) & (second == ord("u")))).tolist():
        if is_transcript(bytes(data[offsets[place] : offsets[place + 1]]).decode()):
            raise _NotPlain


def _instruction(block: _Block) -> dict[str, object]:
    block.require_no_system()
    return {"prompt": block.prompt(), "completion": block.text("completion")}


def _chat(block: _Block) -> dict[str, object]:
    block.require_no_system()
    if block.is_turns("messages"):
        messages = block.messages("messages")
        messages.require_conversations()
        return {"messages": messages.lists()}
    prompt, completion = block.prompt(), block.text("completion")
    content = compute.list_flatten(_pairs(prompt, completion))
    roles = pyarrow.array(["user", "assistant"]).take(pyarrow.array(np.tile(np.arange(2), block.num_rows)))
    return {"messages": _lists(roles, content, np.arange(0, 2 * block.num_rows + 1, 2))}


def _pairs(first: pyarrow.Array, second: pyarrow.Array) -> pyarrow.Array:
    """Return [first, second] for each row."""
    both = pyarrow.concat_arrays([first, second])
    order = np.arange(2 * len(first)).reshape(2, -1).T.reshape(-1)
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(np.arange(0, len(both) + 1, 2).astype(np.int32)), both.take(pyarrow.array(order))
    )


def _preference(block: _Block) -> dict[str, object]:
    block.require_no_system()
    if block.is_turns("chosen") and block.is_turns("rejected"):
        block.require_prompts()
        return _compared_turns(block.messages("chosen"), block.messages("rejected"))
    prompt, chosen, rejected = block.prompt(), block.text("chosen"), block.text("rejected")
    for texts in (prompt, chosen, rejected):
        _require_no_transcripts(texts)
    if compute.any(compute.equal(chosen, rejected)).as_py():
        raise _NotPlain
    return {
        "prompt": _single(prompt, "user"),
        "chosen": _single(chosen, "assistant"),
        "rejected": _single(rejected, "assistant"),
    }


def _compared_turns(chosen: _Messages, rejected: _Messages) -> dict[str, object]:
    """Two conversations that differ in their last turn alone."""
    if not np.array_equal(chosen.offsets, rejected.offsets):
        raise _NotPlain
    is_last = np.zeros(len(chosen.row_of), dtype=bool)
    is_last[chosen.offsets[1:] - 1] = True
    same_text = compute.equal(chosen.content, rejected.content).to_numpy(zero_copy_only=False)
    same_role = compute.equal(chosen.role, rejected.role).to_numpy(zero_copy_only=False)
    if not (same_text & same_role)[~is_last].all() or same_text[is_last].any():
        raise _NotPlain
    for side in (chosen, rejected):
        if not (side.is_assistant & ~side.is_blank)[is_last].all():
            raise _NotPlain
    if not chosen.count(chosen.is_user & ~chosen.is_blank).all():
        raise _NotPlain
    return {"prompt": chosen.lists(~is_last), "chosen": chosen.lists(is_last), "rejected": rejected.lists(is_last)}


def _kto(block: _Block) -> dict[str, object]:
    block.require_no_system()
    prompt, completion = block.prompt(), block.text("completion")
    for texts in (prompt, completion):
        _require_no_transcripts(texts)
    return {"prompt": _single(prompt, "user"), "completion": _single(completion, "assistant"), "label": block.label()}


_BUILDERS: dict[DatasetKind, Callable[[_Block], dict[str, object]]] = {
    DatasetKind.TEXT: lambda block: {"text": block.text("text")},
    DatasetKind.PROMPTS: lambda block: {"prompt": block.prompt()},
    DatasetKind.INSTRUCTION: _instruction,
    DatasetKind.CHAT: _chat,
    DatasetKind.PREFERENCE: _preference,
    DatasetKind.KTO: _kto,
}
_FIELDS = {
    DatasetKind.TEXT: {"text"},
    DatasetKind.PROMPTS: {"prompt", "input"},
    DatasetKind.INSTRUCTION: {"prompt", "input", "completion", "system"},
    DatasetKind.CHAT: {"messages", "prompt", "input", "completion", "system", "tools"},
    DatasetKind.PREFERENCE: {"prompt", "input", "chosen", "rejected", "system", "tools"},
    DatasetKind.KTO: {"prompt", "input", "completion", "label", "system", "tools"},
}
