"""By whole columns or row by row: the same rows, whatever the text and however it is spelled; keys that tell all rows
apart.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.parsing.text_formats import csv_shape
from backend.domain.data.rows.mapping import apply_mapping
from backend.domain.data.rows.problem import RowProblem
from jobs.data.columns import plan_columns
from jobs.data.parsing import Parsed, Parser
from jobs.data.readers import RowBlock, SourcePosition, csv_columns, csv_cut, csv_marks
from jobs.data.row_keys import RowKeys
from jobs.data.schemas import SCHEMAS

TEXT = st.text(st.sampled_from('aZ \n\té東\u3000\x1c\u00a0\\"/{}[],:'), max_size=6) | st.sampled_from(
    ["Human: hi\n\nAssistant: yes", "a\x00b", "\ud800", "Human: x", "Huh", "[]", "5", "null", "", " "]
)
ODD = st.sampled_from([None, 5, 1.5, True, [], {}, ["a"], [{"role": "user"}]])
CELL = TEXT | TEXT | TEXT | ODD
ROLE = st.sampled_from(["user", "assistant", "User", "system", "human", "gpt", "tool", "function_call", "nobody"])
TURN = st.fixed_dictionaries(
    {"role": ROLE, "content": TEXT},
    optional={
        "tool_calls": st.sampled_from([None, [], [{"function": {"name": "f", "arguments": "{}"}}]]),
        "reasoning": TEXT,
        "text": TEXT,
    },
)
SHAREGPT = st.fixed_dictionaries({"from": ROLE, "value": TEXT}, optional={"weight": st.integers(0, 1), "content": TEXT})
PLAIN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
TURNS = st.lists(TURN, max_size=4) | st.just(PLAIN) | ODD
CASES: dict[str, tuple[DatasetKind, dict[str, str], dict[str, Any], dict[str, Any]]] = {
    "text": (DatasetKind.TEXT, {"text": "text"}, {"text": "a"}, {"text": CELL}),
    "prompts": (DatasetKind.PROMPTS, {"q": "prompt"}, {"q": "a"}, {"q": CELL}),
    "alpaca": (
        DatasetKind.INSTRUCTION,
        {"instruction": "prompt", "input": "input", "output": "completion", "sys": "system"},
        {"instruction": "a", "input": "b", "output": "c", "sys": ""},
        {"instruction": CELL, "input": CELL, "output": CELL, "sys": CELL},
    ),
    "messages": (DatasetKind.CHAT, {"messages": "messages"}, {"messages": PLAIN}, {"messages": TURNS}),
    "sharegpt": (
        DatasetKind.CHAT,
        {"conversations": "messages", "system": "system"},
        {"conversations": [{"from": "human", "value": "a"}]},
        {"conversations": st.lists(SHAREGPT, max_size=3), "system": CELL},
    ),
    "asked and answered": (
        DatasetKind.CHAT,
        {"p": "prompt", "c": "completion"},
        {"p": "a", "c": "b"},
        {"p": CELL, "c": CELL},
    ),
    "preference": (
        DatasetKind.PREFERENCE,
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": CELL, "chosen": CELL, "rejected": CELL},
    ),
    "compared turns": (
        DatasetKind.PREFERENCE,
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        {"prompt": "a", "chosen": PLAIN, "rejected": PLAIN},
        {"prompt": CELL, "chosen": TURNS, "rejected": TURNS},
    ),
    "kto": (
        DatasetKind.KTO,
        {"prompt": "prompt", "completion": "completion", "label": "label"},
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": CELL, "completion": CELL, "label": st.booleans() | ODD},
    ),
}


def _block(data: bytes, suffix: str, **content: Any) -> RowBlock:
    return RowBlock("", suffix, 1, SourcePosition(), 0, data=data, **content)


def _content(parsed: Parsed) -> tuple[list[Any], list[Any], list[bytes]]:
    return parsed.table.to_pylist(), [(row.row, row.reason) for row in parsed.bad], list(parsed.keys)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_lines_give_the_same_rows_by_columns_as_one_by_one(name: str, data: st.DataObject) -> None:
    kind, mapping, sample, columns = CASES[name]
    rows = data.draw(st.lists(st.fixed_dictionaries({}, optional={**columns, "other": CELL}), min_size=1, max_size=3))
    rows += [sample] * data.draw(st.integers(0, 1))
    is_ascii = data.draw(st.booleans())
    lines = "".join(json.dumps(row, ensure_ascii=is_ascii) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    lines += data.draw(
        st.sampled_from([b"", b"", b"", b"\n", b"{}\n", b'{"a":\n', b"1}\n", b'{} {"text": "x"}\n', b"\xff\n"])
    )
    plan = plan_columns([sample], kind=kind, mapping=mapping)
    assert plan is not None
    block = _block(lines, ".jsonl")
    assert _content(Parser(kind, mapping, plan).parse(block)) == _content(Parser(kind, mapping, None).parse(block))


@pytest.mark.parametrize("name", CASES)
def test_plain_rows_are_read_by_columns(name: str) -> None:
    kind, mapping, sample, _ = CASES[name]
    if name == "compared turns":
        sample = {**sample, "rejected": [PLAIN[0], {"role": "assistant", "content": "no"}]}
    if name == "sharegpt":
        sample = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    plan = plan_columns([sample], kind=kind, mapping=mapping)
    assert plan is not None
    table = pyarrow.Table.from_pylist([sample] * 3)
    converted = plan.apply(table)
    assert converted is not None
    expected = pyarrow.Table.from_pylist([apply_mapping(sample, kind=kind, mapping=mapping)] * 3, schema=SCHEMAS[kind])
    assert converted.to_pylist() == expected.to_pylist()


@given(
    lines=st.lists(st.text(st.sampled_from('a,"\r\n\x00é '), max_size=9), max_size=5),
    end=st.sampled_from(["", "\n", "\r\n"]),
)
@settings(max_examples=100, deadline=None)
def test_a_csv_gives_the_same_rows_by_columns_as_one_by_one(lines: list[str], end: str) -> None:
    mapping = {"prompt": "prompt", "completion": "completion"}
    shape, _ = csv_shape(b"prompt,completion\n", suffix=".csv")
    data = (end or "\n").join(lines).encode() + end.encode()
    data = data[: csv_cut(data, csv_marks(data, shape), shape, is_whole=True)]
    plan = plan_columns([{"prompt": "a", "completion": "b"}], kind=DatasetKind.INSTRUCTION, mapping=mapping)
    block = _block(data, ".csv", shape=shape, marks=csv_marks(data, shape))
    one_by_one = _content(Parser(DatasetKind.INSTRUCTION, mapping, None).parse(block))
    assert _content(Parser(DatasetKind.INSTRUCTION, mapping, plan).parse(block)) == one_by_one


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_valid_csv_is_read_by_columns(end: str) -> None:
    shape, _ = csv_shape(f"a,b{end}".encode(), suffix=".csv")
    data = f'1,"x, ""y""{end}z"{end}{end}"",é'.encode()
    table = csv_columns(data, csv_marks(data, shape), shape, ["b", "a"])
    assert table is not None
    assert table.to_pylist() == [{"b": 'x, "y"\nz', "a": "1"}, {"b": "é", "a": ""}]
    assert csv_columns(b"1,2,3\n", csv_marks(b"1,2,3\n", shape), shape, ["a"]) is None


@given(rows=st.lists(st.lists(TURN | ODD, max_size=3), min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_keys_are_equal_exactly_where_rows_are(rows: list[list[Any]]) -> None:
    good = []
    for turns in rows:
        try:
            good.append(apply_mapping({"messages": turns}, kind=DatasetKind.CHAT, mapping={"messages": "messages"}))
        except RowProblem:
            good.append({"messages": [], "tools": "x"})
    table = pyarrow.Table.from_pylist(good, schema=SCHEMAS[DatasetKind.CHAT])
    keys, stored = list(RowKeys(table)), table.to_pylist()
    for i, key in enumerate(keys):
        assert [other == key for other in keys] == [other == stored[i] for other in stored]
        assert list(RowKeys(table.slice(i, 1))) == [key]  # whatever stands beside it
