"""Files that are wrong in every way we know of: each fails, or imports its good rows, with the place, the value and the
cure said.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import feather, parquet

from backend.domain.jobs.results import ImportResult
from backend.errors import InvalidInput
from backend.infra.files.heads import head_of_path
from jobs.modeling.dataset_files import iter_rows
from tests.support.data.data_reporter import import_rows

Maker = Callable[[Path], Path]


def _lines(*rows: object) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def _file(name: str, content: bytes | Callable[[], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content())
        return path

    return make


def _texts(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"story {i}"} for i in range(start, start + count)]


def _zip(*members: tuple[str | zipfile.ZipInfo, bytes], compress: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def _encrypted() -> bytes:
    """A zip whose index says that its member needs a password."""
    data = bytearray(_zip(("rows.jsonl", _lines(*_texts(3)))))
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    data[6] |= 1
    return bytes(data)


def _lying() -> bytes:
    """A zip whose index claims fewer bytes than its member has."""
    data = _zip(("rows.jsonl", _lines(*_texts(3))))
    crc = data.index(b"PK\x01\x02") + 16
    return data[:crc] + b"\x00\x00\x00\x00" + data[crc + 4 :]


def _parquet(table: pyarrow.Table) -> bytes:
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def _feather(table: pyarrow.Table) -> bytes:
    out = io.BytesIO()
    feather.write_feather(table, out, compression="uncompressed")
    return out.getvalue()


def _not_utf8_parquet() -> bytes:
    texts = pyarrow.array([b"one", b"caf\xe9", b"three"], pyarrow.binary())
    return _parquet(pyarrow.table({"text": pyarrow.StringArray.from_buffers(3, *texts.buffers()[1:])}))


TABLE = pyarrow.Table.from_pylist(_texts(500))
REFUSED: dict[str, tuple[Maker, dict[str, Any], list[str]]] = {
    "an empty file": (_file("x.jsonl", b""), {}, ["'x.jsonl' is empty"]),
    "no line is JSON": (
        _file("x.jsonl", b"no\nJSON\n"),
        {},
        ["row 1: not JSON: Expecting value (column 1); row 2: not JSON"],
    ),
    "a CSV with a header alone": (_file("x.csv", b"prompt,completion\n"), {}, ["'x.csv' has a header and no rows"]),
    "two columns of one name": (
        _file("x.csv", b"text,text\na,b\n"),
        {},
        ["Two columns are named 'text'", "differently"],
    ),
    "JSON that is not a list of rows": (_file("x.json", b"hello"), {}, ["begins with 'h'", "expected ["]),
    "a gzip file cut off": (
        _file("x.jsonl.gz", lambda: gzip.compress(_lines(*_texts(5000)))[:-3000]),
        {},
        ["'x.jsonl.gz' is damaged or cut off", "Upload it"],
    ),
    "a file that only claims to be gzip": (
        _file("x.jsonl.gz", _lines(*_texts(3))),
        {},
        ["damaged or cut off: Not a gzipped file"],
    ),
    "a bzip2 file cut off": (
        _file("x.jsonl.bz2", lambda: bz2.compress(_lines(*_texts(5000)))[:-30]),
        {},
        ["damaged or cut off"],
    ),
    "a gzip bomb": (
        _file("x.txt.gz", lambda: gzip.compress(b"a" * 2**27, 9)),
        {},
        ["compression bomb", "Extract it yourself"],
    ),
    "a Parquet file cut off": (
        _file("x.parquet", lambda: _parquet(TABLE)[:-100]),
        {},
        ["can't be read as Parquet", "Write it again"],
    ),
    "an Arrow file cut off": (_file("x.arrow", lambda: _feather(TABLE)[:-2000]), {}, ["can't be read as Arrow"]),
    "a zip that is none": (_file("x.zip", b"PK nothing"), {}, ["The zip 'x.zip' is damaged"]),
    "a zip with a wrong checksum": (_file("x.zip", _lying), {}, ["'rows.jsonl' is damaged", "CRC"]),
    "a path that climbs out": (
        _file("x.zip", lambda: _zip(("../../x.jsonl", b"{}"))),
        {},
        ["'../../x.jsonl', a path that leads out"],
    ),
    "an absolute path": (
        _file("x.zip", lambda: _zip(("/etc/x.jsonl", b"{}"))),
        {},
        ["'/etc/x.jsonl', a path that leads out"],
    ),
    "a Windows path": (_file("x.zip", lambda: _zip(("C:\\x.jsonl", b"{}"))), {}, ["a path that leads out"]),
    "a link in a zip": (
        _file("x.zip", lambda: _zip((_link("x.jsonl"), b"/etc/passwd"))),
        {},
        ["holds the link 'x.jsonl'"],
    ),
    "an encrypted zip": (_file("x.zip", _encrypted), {}, ["'rows.jsonl' in 'x.zip' is encrypted", "password"]),
    "a zip bomb": (_file("x.zip", lambda: _zip(("x.txt", b"a" * 2**27))), {}, ["unpacks to 134,217,728 bytes", "bomb"]),
    "a zip of nothing readable": (
        _file("x.zip", lambda: _zip(("x.exe", b"MZ"))),
        {},
        ["holds no file that can be read", "'.exe'"],
    ),
    "an unknown ending": (_file("x.xlsx", b"PK"), {}, ["ends in '.xlsx'", ".parquet"]),
    "a column that is missing": (
        _file("x.jsonl", _lines({"instruction": "a", "response": "b"})),
        {"mapping": {"instruction": "prompt", "output": "completion"}},
        ["row 1: column `output` is missing (found: `response`; use it?)"],
    ),
    "an encoding that is none": (
        _file("x.txt", b"a"),
        {"encoding": "klingon"},
        ["'klingon' is not an encoding", "utf-8"],
    ),
    "an encoding that is no text": (
        _file("x.txt", b"a"),
        {"encoding": "zip_codec"},
        ["'zip_codec' is not an encoding"],
    ),
    "UTF-16 without its mark": (
        _file("x.jsonl", '{"text": "a"}\n'.encode("utf-16-le")),
        {},
        ["row 1: the line contains a NUL", "Choose its encoding"],
    ),
    "good rows, but none may be bad": (
        _file("x.jsonl", _lines(*_texts(20), b"oops")),
        {"keep_good": False},
        ["row 21: not JSON", "skip bad rows"],
    ),
}


def _import(source: Path, **options: Any) -> ImportResult:
    return import_rows(source, source.parent / "out", **options)


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_source_is_refused_and_leaves_no_files(tmp_path: Path, name: str) -> None:
    make, options, words = REFUSED[name]
    with pytest.raises(InvalidInput) as caught:
        _import(make(tmp_path), **options)
    for word in words:
        assert word in str(caught.value)
    out = tmp_path / "out"
    assert not out.exists() or list(out.iterdir()) == []


def _with_long_line(folder: Path) -> Path:
    path = folder / "x.jsonl"
    with path.open("wb") as file:
        file.write(_lines(*_texts(20)) + b'{"text": "')
        file.seek(2**28, os.SEEK_CUR)  # a hole: a line of 256 MB that takes no room on disk
        file.write(b'"}\n' + _lines(*_texts(2, start=20)))
    return path


def _folder(folder: Path) -> Path:
    source = folder / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a.jsonl").write_bytes(_lines(*_texts(10), b"oops"))
    (source / "sub" / "b.csv").write_bytes(b"text\nfrom a table\nwith, too many\n")
    (source / ".hidden.jsonl").write_bytes(b"oops")
    (source / "README.md").write_text("About these rows.")
    (source / "c.zip").write_bytes(_zip(("x.jsonl", b"{}")))
    (folder / "outside.jsonl").write_bytes(_lines({"text": "a secret"}))
    (source / "d.jsonl").symlink_to(folder / "outside.jsonl")
    (source / "e.jsonl").symlink_to("e.jsonl")
    os.mkfifo(source / "f.jsonl")
    return source


KEPT: dict[str, tuple[Maker, dict[str, Any], int, list[dict[str, Any]]]] = {
    "line 48,213 is not JSON": (
        _file("x.jsonl", lambda: _lines(*_texts(48_212), b'{"text": "cut o', *_texts(10, 50_000))),
        {},
        48_222,
        [{"row": 48_213, "reason": "not JSON: Unterminated string", "raw": '{"text": "cut o'}],
    ),
    "mixed types": (
        _file("x.jsonl", _lines(*_texts(20), {"text": 5}, {"text": None}, {"text": ["a"]}, [1])),
        {},
        20,
        [
            {"row": 21, "reason": "a number (5) where text"},
            {"row": 22, "reason": "nothing where"},
            {"row": 23},
            {"row": 24, "reason": "an object"},
        ],
    ),
    "NUL, raw and escaped": (
        _file("x.jsonl", _lines(*_texts(20), b'{"text": "a\x00b"}', b'{"text": "a\\u0000b"}')),
        {},
        20,
        [{"row": 21, "reason": "NUL character (column 12)"}, {"row": 22, "reason": "NUL"}],
    ),
    "lone surrogate": (
        _file("x.jsonl", _lines(*_texts(20), b'{"text": "\\ud83d"}')),
        {},
        20,
        [{"row": 21, "reason": "lone surrogate"}],
    ),
    "a few lines in another encoding": (
        _file("x.jsonl", _lines(*_texts(20), '{"text": "Le café était fermé à côté de l’école"}'.encode("cp1252"))),
        {},
        20,
        [{"row": 21, "reason": "not UTF-8 (byte 0xE9 at column 17); it may be cp125"}],
    ),
    "nesting without end": (
        _file("x.jsonl", _lines(*_texts(20), b"[" * 100_000)),
        {},
        20,
        [{"row": 21, "reason": "nested too deeply"}],
    ),
    "a line of 256 MB": (
        _with_long_line,
        {},
        22,
        [{"row": 21, "reason": "longer than 8 MB (268,435,469 bytes)", "raw": '{"text": "'}],
    ),
    "fields too few and too many": (
        _file("x.csv", b"prompt,completion\n" + b"a,b\n" * 20 + b"alone\na,b,c\n"),
        {},
        20,
        [
            {"row": 21, "reason": "1 field, the header has 2 (prompt, completion)", "raw": "alone"},
            {"row": 22, "reason": "3 fields"},
        ],
    ),
    "a quotation mark in the middle": (
        _file("x.csv", b"prompt,completion\n" + b'"a",b\n' * 20 + b'"5" disk",b\nc,d\n'),
        {},
        21,
        [{"row": 21, "reason": "quotation mark"}],
    ),
    "Parquet that is not UTF-8": (_file("x.parquet", _not_utf8_parquet), {}, 2, [{"row": 2, "reason": "not UTF-8"}]),
    "a conversation without turns": (
        _file(
            "x.jsonl",
            _lines(
                {"messages": []},
                *([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 20),
            ),
        ),
        {},
        20,
        [{"row": 1}],
    ),
    "a list of JSON cut off": (
        _file("x.json", lambda: json.dumps(_texts(30)).encode()[:-20]),
        {},
        29,
        [{"row": 30, "reason": "nothing after this place"}],
    ),
    "a folder": (
        _folder,
        {},
        11,
        [{"file": "a.jsonl", "row": 11, "reason": "not JSON"}, {"file": "sub/b.csv", "row": 2, "reason": "2 fields"}],
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_good_rows_are_kept_and_each_bad_one_is_listed_with_its_position_and_beginning(
    tmp_path: Path, name: str
) -> None:
    make, options, good, bad = KEPT[name]
    result = _import(make(tmp_path), **options)
    assert (result.rows, result.rejected_count) == (good, len(bad))
    listed = [json.loads(line) for line in (Path(result.folder) / "rejected.jsonl").read_text().splitlines()]
    for row, expected in zip(listed, bad, strict=True):
        assert expected.pop("reason", "") in row["reason"]
        assert expected.pop("raw", "") in row["raw"]
        assert expected.items() <= row.items()
    assert [{**row, "raw": ""} for row in result.rejected] == [{**row, "raw": ""} for row in listed]


def _mixed(folder: Path) -> Path:
    """Files of three encodings, of which one must be named."""
    texts = {"a.txt": ("Où est-il ?", "utf-16"), "b.txt": ("Là — “ici”", "utf-8"), "c.txt": ("Größe", "cp1252")}
    for name, (text, encoding) in texts.items():
        (folder / name).write_bytes(f"{name}\n<|endoftext|>\n{text}\n".encode(encoding))
    return folder


def test_each_of_several_files_is_read_by_its_own_encoding(tmp_path: Path) -> None:
    """Reading all as cp1252 would garble the file that is UTF-8."""
    (source := tmp_path / "source").mkdir()
    result = import_rows(_mixed(source), tmp_path / "out", encoding="cp1252", val_fraction=0)
    texts = {row["text"] for row in iter_rows(Path(result.folder), split="train")}
    assert texts == {"a.txt", "b.txt", "c.txt", "Où est-il ?", "Là — “ici”", "Größe"}


def test_a_file_that_ends_within_what_would_be_a_character_is_of_the_chosen_encoding(tmp_path: Path) -> None:
    """“J'aime le café” without a last newline was taken for UTF-8, and its row rejected."""
    (source := tmp_path / "source").mkdir()
    (source / "a.txt").write_bytes("J'aime le café".encode("cp1252"))
    (source / "b.txt").write_bytes("là".encode())
    result = import_rows(source, tmp_path / "out", encoding="cp1252", val_fraction=0)
    assert {row["text"] for row in iter_rows(Path(result.folder), split="train")} == {"J'aime le café", "là"}
    head = head_of_path(source, encoding="cp1252")
    assert head.rows == [{"text": "J'aime le café"}]


def test_the_file_of_the_first_bad_row_is_named(tmp_path: Path) -> None:
    """“First: row 1” might be in any of the files."""
    (source := tmp_path / "source").mkdir()
    with pytest.raises(InvalidInput, match=r"not UTF-8 \(byte 0xF6.*\(first: c\.txt, row 3\)"):
        import_rows(_mixed(source), tmp_path / "out", max_rejected=0.0)


def test_files_left_out_of_a_folder_are_listed(tmp_path: Path) -> None:
    result = _import(_folder(tmp_path))
    assert {item["file"]: item["reason"] for item in result.ignored} == {
        ".hidden.jsonl": "hidden",
        "README.md": "text beside data files",
        "c.zip": "a zip within a folder or a zip is not opened",
        "d.jsonl": "a link that leads out of the folder",
        "e.jsonl": "not a plain file",
        "f.jsonl": "not a plain file",
    }
    texts = {row["text"] for split in ("train", "val") for row in iter_rows(Path(result.folder), split=split)}
    assert "from a table" in texts
    assert "a secret" not in texts
    assert result.files == 2


ROWS = [{"prompt": f"Où est {i} ?", "completion": "Là — “ici”"} for i in range(30)]
_CSV = "prompt;completion\r\n" + "".join(f'"{row["prompt"]}";"{row["completion"]}"\r\n' for row in ROWS)
ODD_BUT_SOUND: dict[str, tuple[Maker, dict[str, Any]]] = {
    "semicolons and a mark": (_file("x.csv", b"\xef\xbb\xbf" + _CSV.encode()), {}),
    "UTF-16 with its mark": (_file("x.csv", _CSV.encode("utf-16")), {}),
    "Windows-1252, named": (_file("x.csv", _CSV.encode("cp1252")), {"encoding": "windows-1252"}),
    "tabs in a .csv": (_file("x.csv", _CSV.replace(";", "\t").encode()), {}),
    "Feather": (_file("x.feather", lambda: _feather(pyarrow.Table.from_pylist(ROWS))), {}),
    "dictionary-coded Parquet": (
        _file(
            "x.parquet",
            lambda: _parquet(
                pyarrow.table({k: pyarrow.array([r[k] for r in ROWS]).dictionary_encode() for k in ROWS[0]})
            ),
        ),
        {},
    ),
    "a zip of two kinds of files": (
        _file(
            "x.zip",
            lambda: _zip(
                ("a.parquet", _parquet(pyarrow.Table.from_pylist(ROWS[:10]))), ("b.jsonl", _lines(*ROWS[10:]))
            ),
        ),
        {},
    ),
    "JSON lines in bzip2": (_file("x.jsonl.bz2", lambda: bz2.compress(_lines(*ROWS))), {}),
    "JSON lines in Zstandard": (
        _file("x.jsonl.zst", lambda: pyarrow.compress(_lines(*ROWS), "zstd", asbytes=True)),
        {},
    ),
}


@pytest.mark.parametrize("name", ODD_BUT_SOUND)
def test_every_valid_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    make, options = ODD_BUT_SOUND[name]
    result = _import(make(tmp_path), **options)
    plain = _import(_file("plain.jsonl", _lines(*ROWS))(tmp_path))
    assert result.rejected == ()
    assert result.content_hash == plain.content_hash
