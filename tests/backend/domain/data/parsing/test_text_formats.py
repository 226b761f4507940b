"""Heads of files and streams of bytes become rows, or an error in words."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from backend.domain.data.parsing.text_formats import iter_rows_of, sniff_bytes
from backend.domain.data.recognition import recognise
from backend.domain.data.rows.mapping import apply_mapping
from backend.domain.data.rows.problem import RowProblem
from backend.errors import InvalidInput
from backend.infra.files.parquet import first_rows


def test_the_head_of_each_format_gives_rows() -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    assert sniff_bytes("x.jsonl", lines) == rows
    assert sniff_bytes("x.JSON", json.dumps(rows).encode()) == rows
    assert sniff_bytes("x.json", lines) == rows
    assert sniff_bytes("x.json", json.dumps({"version": 1, "data": rows}).encode()) == rows
    assert sniff_bytes("x.csv", b"\xef\xbb\xbfprompt,completion\r\na,b\r\nc,d\r\n") == rows
    assert sniff_bytes("x.csv", b"prompt;completion\n\na;b\nc;d") == rows
    assert sniff_bytes("x.tsv", b"prompt\tcompletion\na\tb\nc\td\n") == rows
    assert sniff_bytes("x.jsonl.gz", gzip.compress(lines)) == rows
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert first_rows(io.BytesIO(file.getvalue()), limit=50) == rows


def test_a_head_that_is_cut_off_gives_the_whole_rows_before_the_cut() -> None:
    rows = [{"text": f"row {i} \u00e4"} for i in range(10)]
    assert sniff_bytes("x.jsonl", "\n".join(map(json.dumps, rows)).encode()[:-5]) == rows[:-1]
    assert sniff_bytes("x.json", json.dumps(rows).encode()[:-5]) == rows[:-1]
    assert sniff_bytes("x.json", json.dumps({"canary": "x", "examples": rows}).encode()[:-9]) == rows[:-1]
    assert sniff_bytes("x.txt", "na\u00efve".encode()[:3]) == [{"text": "na"}]
    compressed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    assert sniff_bytes("x.jsonl.gz", compressed[:-12])[0] == rows[0]


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("x.pkl", b"...", "ends in '.pkl'"),
        ("noend", b"...", "ends in 'nothing'"),
        ("x.jsonl", b" \n", "is empty"),
        ("x.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("x.txt", "{}".encode("utf-16"), "UTF-16"),
        ("x.csv.gz", b"plainly not", "not compressed by gzip"),
        ("x.csv", b"question,answer\n", "'x.csv' has a header and no rows"),
        ("x.csv.gz", gzip.compress(b"question,answer", mtime=0), "has a header and no rows"),
    ],
)
def test_an_unreadable_file_is_refused(name: str, head: bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sniff_bytes(name, head)
    assert words in caught.value.message
    assert "longer than" not in caught.value.message


def test_a_file_that_is_not_parquet_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not readable as Parquet"):
        first_rows(io.BytesIO(b"PAR1 but not really"), limit=50)


def test_a_table_without_a_header_is_read_from_its_first_row() -> None:
    rows = sniff_bytes("mmlu.csv", b'"What is 2 + 2, really?",3,4,5,6,B\n"And 3 + 3?",3,4,5,6,D\n')
    recognition = recognise(rows)
    item = apply_mapping(rows[0], kind=recognition.kind, mapping=recognition.mapping)
    assert item == {"question": "What is 2 + 2, really?", "choices": ["3", "4", "5", "6"], "answer": 1}


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), min_size=1), min_size=1, max_size=6),
    cut=st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_json_is_read_the_same_in_chunks_of_any_size(rows: list[dict[str, str]], cut: int) -> None:
    data = json.dumps(rows, ensure_ascii=True, indent=1).encode()
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
    assert [row for _, row in iter_rows_of(".json", pieces)] == rows
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    assert [row for _, row in iter_rows_of(".jsonl", [lines[i : i + cut] for i in range(0, len(lines), cut)])] == rows


@given(data=st.binary(max_size=300), suffix=st.sampled_from([".txt", ".jsonl", ".json", ".csv", ".tsv"]))
@settings(max_examples=300, deadline=None)
def test_no_bytes_crash_a_reader(data: bytes, suffix: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        with pytest.raises(InvalidInput, match="UTF-16"):
            list(iter_rows_of(suffix, [data]))
        return
    for number, row in iter_rows_of(suffix, [data]):
        assert number >= 1
        assert isinstance(row, dict | RowProblem)
