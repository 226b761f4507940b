"""Files of every format, sound and broken: each bad row is a problem in its place, never a crash."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from backend.domain.data.parsing.text_formats import MAX_ROW_BYTES, NumberedRow
from backend.domain.data.rows.problem import RowProblem
from backend.errors import InvalidInput, NotFound
from jobs.data.parsing import rows_of
from jobs.data.readers import RowSource


def _rows(path: Path, **options: Any) -> list[NumberedRow]:
    return [row for block in RowSource(path, **options).blocks() for row in rows_of(block)]


def _read(path: Path) -> tuple[dict[int, dict[str, object]], dict[int, str]]:
    """Return good rows and problems by number."""
    good, bad = {}, {}
    for number, row in _rows(path):
        if isinstance(row, RowProblem):
            bad[number] = row.reason
        else:
            good[number] = row
    return good, bad


@pytest.mark.parametrize("quoted_later", [b"", b'"never closed,x\n'], ids=["in blocks", "one by one"])
def test_rows_of_a_csv_are_counted_without_header_blank_lines_and_lines_of_cells(
    tmp_path: Path, quoted_later: bytes
) -> None:
    """Row 12 was a good one: the row meant was the fifth, below cells of several lines."""
    path = tmp_path / "rows.csv"
    cells = b'"two\r\nlines",a\r\n'
    path.write_bytes(b"prompt,completion\r\n" + 4 * cells + b"\r\n" + b"only one\r\n" + cells + quoted_later)
    good, bad = _read(path)
    assert list(good) == [1, 2, 3, 4, 6]
    assert list(bad) == ([5, 7] if quoted_later else [5])


def test_each_broken_line_of_json_lines_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\n".join(
            [
                b'{"text": "one"}',
                b"not json",
                b'{"text": "caf\xe9"}',
                b'{"text": "a\x00b"}',
                b"[1, 2]",
                b"",
                b'{"text": "' + b"x" * (MAX_ROW_BYTES + 10) + b'"}',
                b"[" * 100_000,
                b'{"text": ' + b"9" * 5000 + b"}",
                b'{"text": "last"}\r',
            ]
        )
    )
    good, bad = _read(path)
    assert good == {1: {"text": "one"}, 9: {"text": "last"}}
    assert set(bad) == {2, 3, 4, 5, 6, 7, 8}
    assert "not JSON: Expecting value (column 1)" in bad[2]
    assert "not UTF-8 (byte 0xE9 at column 14)" in bad[3]
    assert "NUL" in bad[4]
    assert "expected an object" in bad[5]
    assert "longer than 8 MB" in bad[6]
    assert "nested too deeply" in bad[7]
    assert "not usable JSON" in bad[8]


def test_a_csv_with_broken_rows_keeps_the_valid_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,completion\na,b\n"two\nlines",ok\nonly one\na,b,c\nbad \xe9,x\nnul \x00,x\nlast,row\n')
    good, bad = _read(path)
    assert good == {
        1: {"prompt": "a", "completion": "b"},
        2: {"prompt": "two\nlines", "completion": "ok"},
        7: {"prompt": "last", "completion": "row"},
    }
    assert bad[3] == "the row has 1 field, the header has 2 (prompt, completion)"
    assert "3 fields" in bad[4]
    assert "byte 0xE9" in bad[5]
    assert "NUL" in bad[6]


def test_a_quotation_mark_that_is_never_closed_is_a_problem_and_not_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,b\n"open,b\nc,d\n')
    good, bad = _read(path)
    assert list(good) == [1]
    assert (
        bad[2]
        == "a quotation mark that opens here is never closed, so the line after it can't be told apart from this row"
    )


def test_a_line_that_is_far_too_long_is_skipped_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,id\nfirst,1\n" + b"x" * (MAX_ROW_BYTES + 10) + b",2\nlast,3\n")
    good, bad = _read(path)
    assert [row["text"] for row in good.values()] == ["first", "last"]
    assert "longer than 8 MB" in bad[2]


def test_a_text_file_is_one_document_or_as_many_as_it_marks(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfOne\n\ntwo\n")
    assert _read(path) == ({1: {"text": "One\n\ntwo"}}, {})
    path.write_bytes(b"One\n<|endoftext|>\r\nTwo\nbad \xff line\nlines\n<|endoftext|>\n\n<|endoftext|>\nThree")
    good, bad = _read(path)
    assert good == {1: {"text": "One"}, 3: {"text": "Two\nlines"}, 9: {"text": "Three"}}
    assert bad == {4: "the line is not UTF-8 (byte 0xFF at column 5)"}


def test_a_text_file_of_prompts_has_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Who?\n\n  Where? \n")
    assert _rows(path, lines_are_prompts=True) == [(1, {"prompt": "Who?"}), (2, {"prompt": "Where?"})]


def test_truncated_json_gives_the_rows_before_and_the_position(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "one"}, 7, {"text": "two"}, {"text": oops}, {"text": "lost"}]')
    good, bad = _read(path)
    assert good == {1: {"text": "one"}, 3: {"text": "two"}}
    assert "expected an object with named columns, found int 7" in bad[2]
    assert "nothing after this place can be read" in bad[4]


def test_json_that_is_no_list_of_rows_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("hello")
    assert "begins with 'h'" in _read(path)[1][1]


def test_compressed_files_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    data = gzip.compress("\n".join(json.dumps({"text": f"row {i} {i * 7919}"}) for i in range(50_000)).encode())
    path.write_bytes(data)
    assert len(_rows(path)) == 50_000
    assert list(RowSource(path).blocks())[-1].position == path.stat().st_size
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidInput, match="damaged or cut off"):
        _rows(path)


def test_parquet_rows_come_with_their_number_and_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"messages": [{"role": "user", "content": f"hi {i}"}], "n": i} for i in range(600)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert _rows(path) == list(enumerate(rows, start=1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidInput, match="can't be read as Parquet"):
        _rows(path)


def test_empty_missing_and_unknown_files_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(InvalidInput, match="is empty"):
        RowSource(tmp_path / "empty.jsonl")
    with pytest.raises(InvalidInput, match=r"ends in '\.xlsx'"):
        RowSource(tmp_path / "rows.xlsx")
    with pytest.raises(NotFound):
        RowSource(tmp_path / "none.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"big.{suffix}"
    row = {"text": "word " * 200}
    line = json.dumps(row)
    with path.open("w") as file:
        if suffix == "csv":
            file.write("text\n" + (row["text"] + "\n") * 60_000)
        elif suffix == "json":
            file.write("[" + ",\n".join([line] * 60_000) + "]")
        else:
            file.write((line + "\n") * 60_000)
    assert path.stat().st_size > 55e6
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom jobs.data.parsing import rows_of\nfrom jobs.data.readers"
        " import RowSource\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nprint(sum(isinstance(row,"
        " dict) for block in RowSource(Path(sys.argv[1])).blocks() for _, row in"
        " rows_of(block)))\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    grown_mb = grown / (1024 if sys.platform == "linux" else 2**20)
    assert rows == 60_000
    assert grown_mb < 25, f"{grown_mb:.0f} MB"
