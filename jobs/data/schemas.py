"""Stored columns of each kind of rows."""

from __future__ import annotations

import pyarrow

from backend.domain.data.kinds import DatasetKind

_TEXT = pyarrow.string()
_CALL = pyarrow.struct(
    [("id", _TEXT), ("type", _TEXT), ("function", pyarrow.struct([("name", _TEXT), ("arguments", _TEXT)]))]
)
CALLS = pyarrow.list_(_CALL)
MESSAGE = pyarrow.struct(
    [("role", _TEXT), ("content", _TEXT), ("tool_calls", CALLS), ("tool_call_id", _TEXT), ("name", _TEXT)]
)
_MESSAGES = pyarrow.list_(MESSAGE)
SCHEMAS: dict[DatasetKind, pyarrow.Schema] = {
    DatasetKind.TEXT: pyarrow.schema([("text", _TEXT)]),
    DatasetKind.INSTRUCTION: pyarrow.schema([("prompt", _TEXT), ("completion", _TEXT)]),
    DatasetKind.CHAT: pyarrow.schema([("messages", _MESSAGES), ("tools", _TEXT)]),
    DatasetKind.PREFERENCE: pyarrow.schema(
        [("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES), ("tools", _TEXT)]
    ),
    DatasetKind.KTO: pyarrow.schema(
        [("prompt", _MESSAGES), ("completion", _MESSAGES), ("label", pyarrow.bool_()), ("tools", _TEXT)]
    ),
    DatasetKind.BENCHMARK: pyarrow.schema(
        [
            ("question", _TEXT),
            ("choices", pyarrow.list_(_TEXT)),
            ("answer", pyarrow.int64()),
            ("answers", pyarrow.list_(_TEXT)),
            ("record", _TEXT),
        ]
    ),
    DatasetKind.PROMPTS: pyarrow.schema([("prompt", _TEXT)]),
    DatasetKind.RECORDS: pyarrow.schema([("record", _TEXT)]),
}
