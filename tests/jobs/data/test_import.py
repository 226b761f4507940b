"""An import from a file to a published folder: split, hash, rejected rows, atomicity, and the job's entry."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.rows.records import columns_of
from backend.domain.jobs.results import ImportResult
from backend.errors import InvalidInput, JobFailed, NotFound
from backend.services.starter import STARTER_DATASETS, StarterDataset
from jobs.data.run import run
from jobs.data.splitting import cut_text, val_rows
from jobs.modeling.dataset_files import iter_rows, num_rows, read_meta
from tests.support.data.data_reporter import RememberingReporter, import_rows
from tests.support.jobs import make_spec

ROOT = Path(__file__).parents[3]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _import(source: Path, **options: Any) -> ImportResult:
    return import_rows(source, source.parent / "datasets", **{"val_fraction": 0.1, "seed": 0, **options})


def _texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"story number {i}"} for i in range(count)]


@pytest.mark.parametrize("dataset", STARTER_DATASETS, ids=lambda dataset: dataset.name)
def test_starter_content_is_imported_unchanged(tmp_path: Path, dataset: StarterDataset) -> None:
    rows = dataset.read_rows()
    result = _import(_write(tmp_path / "rows.jsonl", rows), kind=dataset.kind, val_fraction=0.05, seed=1)
    assert (result.kind, result.rows, result.rejected_count) == (dataset.kind, len(rows), 0)
    back = [*iter_rows(Path(result.folder), split="train"), *iter_rows(Path(result.folder), split="val")]
    assert Counter(map(canonical_json, back)) == Counter(map(canonical_json, rows))
    assert (num_rows(Path(result.folder), split="train"), num_rows(Path(result.folder), split="val")) == (
        result.train_rows,
        result.val_rows,
    )
    if dataset.kind in ("benchmark", "prompts"):
        assert result.val_rows == 0
        assert back == rows
    else:
        assert 0.03 < result.val_rows / result.rows < 0.07


def test_the_folder_describes_its_content(tmp_path: Path) -> None:
    result = _import(_write(tmp_path / "rows.jsonl", [*_texts(40), {"text": 5}]))
    meta = read_meta(Path(result.folder))
    assert sorted(file.name for file in Path(result.folder).iterdir()) == [
        "meta.json",
        "rejected.jsonl",
        "train.parquet",
        "val.parquet",
    ]
    assert meta["kind"] == "text"
    assert meta["content_hash"] == result.content_hash
    assert Path(result.folder).name == result.content_hash[:16]
    assert (meta["rows"], meta["train_rows"], meta["val_rows"], meta["columns"]) == (40, 36, 4, ["text"])
    assert json.loads((Path(result.folder) / "rejected.jsonl").read_text()) == {
        "row": 41,
        "reason": "`text` holds a number (5) where text is expected",
        "raw": '{"text": 5}',
    }
    assert result.bytes == sum(file.stat().st_size for file in Path(result.folder).iterdir())
    assert (
        parquet.ParquetFile(Path(result.folder) / "train.parquet").metadata.row_group(0).column(0).compression
        == "UNCOMPRESSED"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_columns_of_nested_objects_are_imported_by_their_path(tmp_path: Path, suffix: str) -> None:
    """Forty-one of forty-one rows were rejected: only a whole object could be chosen."""
    rows = [{"id": i, "ticket": {"body": {"question": f"Why {i}?", "answer": "Because. " * 20}}} for i in range(40)]
    source = tmp_path / f"tickets{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    else:
        _write(source, [*rows, {"id": 40, "ticket": None}])
    result = _import(source, max_rejected=1)
    assert result.mapping == {"ticket.body.question": "prompt", "ticket.body.answer": "completion"}
    assert result.rows == 40
    rejected = ["column `ticket.body.question` is missing (found: `id`, `ticket`)"] if suffix == ".jsonl" else []
    assert [bad["reason"] for bad in result.rejected] == rejected
    chosen = _import(source, kind="text", mapping={"ticket.body.question": "text"}, max_rejected=1, val_fraction=0)
    assert next(iter_rows(Path(chosen.folder), split="train")) == {"text": "Why 0?"}


def test_the_same_content_gives_the_same_folder_and_other_content_another(tmp_path: Path) -> None:
    first = _import(_write(tmp_path / "a.jsonl", _texts(30)))
    inode = (Path(first.folder) / "train.parquet").stat().st_ino
    parquet.write_table(pyarrow.Table.from_pylist(_texts(30)), tmp_path / "b.parquet")
    second = _import(tmp_path / "b.parquet")
    assert Path(second.folder) == Path(first.folder)
    assert (Path(second.folder) / "train.parquet").stat().st_ino == inode  # the published files were left alone
    assert _import(_write(tmp_path / "c.jsonl", _texts(31))).folder != Path(first.folder)
    assert _import(tmp_path / "a.jsonl", seed=5).folder != Path(first.folder)  # another split is another version
    assert not list((tmp_path / "datasets").glob(".importing-*"))


def test_identical_rows_stay_in_one_split_and_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = _texts(300) * 2
    one = _import(_write(tmp_path / "a.jsonl", rows), seed=3)
    two = _import(_write(tmp_path / "b.jsonl", rows[::-1]), seed=3)
    for result in (one, two):
        train = {row["text"] for row in iter_rows(Path(result.folder), split="train")}
        val = {row["text"] for row in iter_rows(Path(result.folder), split="val")}
        assert not train & val
        assert len(val) == 30
    assert {r["text"] for r in iter_rows(Path(one.folder), split="val")} == {
        r["text"] for r in iter_rows(Path(two.folder), split="val")
    }


def test_in_a_large_dataset_a_row_keeps_its_split_when_others_are_added(tmp_path: Path) -> None:
    small = _import(_write(tmp_path / "a.jsonl", _texts(1500)), seed=3)
    large = _import(_write(tmp_path / "b.jsonl", _texts(3000)), seed=3)
    before = {row["text"] for row in iter_rows(Path(small.folder), split="val")}
    after = {row["text"] for row in iter_rows(Path(large.folder), split="val")}
    assert before < after
    assert 240 < large.val_rows < 360
    other = _import(tmp_path / "a.jsonl", seed=4)
    assert {row["text"] for row in iter_rows(Path(other.folder), split="val")} != before


def test_a_single_text_is_cut_at_a_line_break_near_its_end(tmp_path: Path) -> None:
    text = "\n".join(f"line {i} of the book" for i in range(1000))
    (tmp_path / "book.txt").write_text(text)
    result = _import(tmp_path / "book.txt", val_fraction=0.1)
    (train,) = iter_rows(Path(result.folder), split="train")
    (val,) = iter_rows(Path(result.folder), split="val")
    assert train["text"] + val["text"] == text
    assert train["text"].endswith("\n")
    assert abs(len(val["text"]) / len(text) - 0.1) < 0.01
    assert (result.kind, result.rows, result.train_rows, result.val_rows) == ("text", 1, 1, 1)


def test_without_a_validation_share_everything_is_for_training(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("a\nb\nc\n" * 50)
    assert _import(tmp_path / "book.txt", val_fraction=0.0).val_rows == 0
    assert _import(_write(tmp_path / "rows.jsonl", _texts(50)), val_fraction=0.0).val_rows == 0


def test_the_byte_entropy_is_that_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "even.txt").write_text("abcd" * 500)
    assert _import(tmp_path / "even.txt").unigram_byte_entropy_bits == pytest.approx(2.0)
    (tmp_path / "uneven.txt").write_text("aaab" * 500)
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert _import(tmp_path / "uneven.txt").unigram_byte_entropy_bits == pytest.approx(expected)


def test_a_given_mapping_overrides_the_recognised_one(tmp_path: Path) -> None:
    rows = [{"instruction": f"q {i}", "output": f"a {i}", "better": f"b {i}"} for i in range(20)]
    source = _write(tmp_path / "rows.jsonl", rows)
    result = _import(source, kind="chat", mapping={"instruction": "prompt", "better": "completion"})
    row = next(iter_rows(Path(result.folder), split="train"))
    assert row["messages"][1]["content"].startswith("b ")
    assert result.mapping == {"instruction": "prompt", "better": "completion"}
    with pytest.raises(InvalidInput, match="kind instruction needs"):
        _import(source, kind="instruction", mapping={"instruction": "prompt"})


def test_when_no_row_can_be_used_the_first_reasons_are_named_and_no_files_are_left(tmp_path: Path) -> None:
    source = _write(tmp_path / "rows.jsonl", [{"instruction": "a", "response": "b"}] * 3)
    with pytest.raises(InvalidInput) as caught:
        _import(source, kind="instruction", mapping={"instruction": "prompt", "output": "completion"})
    assert "row 1: column `output` is missing (found: `response`; use it?)" in caught.value.message
    assert list((tmp_path / "datasets").iterdir()) == []
    (tmp_path / "bad.jsonl").write_text("nothing\nof this\nis json\n")
    with pytest.raises(InvalidInput, match="row 1: not JSON"):
        _import(tmp_path / "bad.jsonl")


def test_unknown_kinds_and_shares_are_refused(tmp_path: Path) -> None:
    source = _write(tmp_path / "rows.jsonl", _texts(3))
    with pytest.raises(ValidationError, match="kind\n"):
        _import(source, kind="novel")
    with pytest.raises(ValidationError, match="val_fraction\n"):
        _import(source, val_fraction=1)
    with pytest.raises(InvalidInput, match="No column can be used as kind preference"):
        _import(source, kind="preference")


def test_only_the_first_two_hundred_rejected_rows_are_in_the_result_and_all_are_on_disk(tmp_path: Path) -> None:
    source = _write(tmp_path / "rows.jsonl", [*_texts(30), *[{"text": ""}] * 500])
    result = _import(source)
    assert (result.rejected_count, len(result.rejected)) == (500, 200)
    assert result.rejected[0] == {"row": 31, "reason": "`text` is empty", "raw": '{"text": ""}'}
    assert len((Path(result.folder) / "rejected.jsonl").read_text().splitlines()) == 500


def test_an_import_stops_on_request_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.data.importer.REPORT_EVERY_S", 0.0)  # asked after each block, however fast they go by
    source = tmp_path / "rows.jsonl"
    with source.open("w") as file:
        for i in range(150_000):
            file.write(f'{{"text": "story number {i}"}}\n')
    reporter = RememberingReporter(stop_after=0)
    with pytest.raises(JobFailed, match="stopped on request"):
        _import(source, reporter=reporter)
    assert list((tmp_path / "datasets").iterdir()) == []
    assert reporter.progressed
    assert all(0 < done <= total for done, total in reporter.progressed)


def _write_many(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for i in range(count):
            file.write('{"text": 7}\n' if i % 5000 == 0 else f'{{"text": "story number {i} {"of many words " * 8}"}}\n')
    return path


def test_a_killed_import_publishes_nothing_and_the_next_resumes_from_its_last_part(tmp_path: Path) -> None:
    source = _write_many(tmp_path / "rows.jsonl", 200_000)
    out = tmp_path / "datasets"
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.support.data.data_reporter import"
        " import_rows\nimport jobs.data.importer as importer\nimporter.State.save, save = lambda *a: (save(*a),"
        " print('saved', flush=True), sys.stdin.read()),"
        " importer.State.save\nimport_rows(Path(sys.argv[1]), Path(sys.argv[2]), val_fraction=0.1, seed=0, part_s=0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(source), str(out)], env=env, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == b"saved\n"  # a part is finished, and the import waits
        child.kill()
    (left,) = out.iterdir()
    assert left.name.startswith(".importing-")
    reporter = RememberingReporter()
    result = _import(source, reporter=reporter, part_s=0)
    assert result.resumed
    assert any("Resuming after 16,384 rows" in line for line in reporter.lines)
    assert list(out.iterdir()) == [Path(result.folder)]
    whole = import_rows(source, tmp_path / "whole", val_fraction=0.1, seed=0)
    assert not whole.resumed
    assert (whole.content_hash, whole.rows, whole.val_rows) == (result.content_hash, result.rows, result.val_rows)
    for name in ("rejected.jsonl", "train.parquet", "val.parquet"):
        if name == "rejected.jsonl":
            assert (Path(whole.folder) / name).read_bytes() == (Path(result.folder) / name).read_bytes()
        else:
            assert parquet.read_table(Path(whole.folder) / name).equals(parquet.read_table(Path(result.folder) / name))


def test_leftovers_of_a_killed_import_are_removed_after_a_day(tmp_path: Path) -> None:
    left = tmp_path / "datasets" / ".importing-0123"
    left.mkdir(parents=True)
    result = _import(_write(tmp_path / "small.jsonl", _texts(20)))
    assert left.exists()
    os.utime(left, (0, 0))
    _import(tmp_path / "small.jsonl")
    assert list((tmp_path / "datasets").iterdir()) == [Path(result.folder)]


def test_the_job_imports_a_file_and_returns_plain_json(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    _write(tmp_path / "uploads" / "rows.jsonl", _texts(30))
    payload = {
        "source": "uploads/rows.jsonl",
        "hub": None,
        "kind": "text",
        "mapping": {},
        "val_fraction": 0.1,
        "seed": 1,
        "out_root": "datasets",
    }
    spec = make_spec("import_dataset", payload, root=tmp_path)
    result = json.loads(json.dumps(run(spec, RememberingReporter()).dump()))
    assert result["folder"] == f"datasets/{result['content_hash'][:16]}"
    assert (result["rows"], result["train_rows"], result["val_rows"], result["rejected_count"]) == (30, 27, 3, 0)
    assert result["mapping"] == {"text": "text"}
    assert num_rows(spec.path(result["folder"]), split="val") == 3


def test_a_folder_without_a_dataset_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"meta\.json is missing"):
        read_meta(tmp_path)
    with pytest.raises(NotFound, match=r"no train\.parquet"):
        list(iter_rows(tmp_path, split="train"))


@given(texts=st.lists(st.text(max_size=6), max_size=40), seed=st.integers(0, 99), share=st.floats(0.01, 0.9))
@settings(max_examples=200, deadline=None)
def test_an_exact_split_takes_some_but_never_all_distinct_rows(texts: list[str], seed: int, share: float) -> None:
    def chosen(texts: list[str]) -> set[str]:
        table = pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())})
        mask = val_rows([table], kind=DatasetKind.TEXT, seed=seed, val_fraction=share)
        return {text for text, is_val in zip(texts, mask, strict=True) if is_val}

    val, distinct = chosen(texts), set(texts)
    assert val <= distinct
    if len(distinct) >= 2:
        assert 0 < len(val) < len(distinct)
    assert val == chosen(texts[::-1])


@given(text=st.text(max_size=200), share=st.floats(0, 0.99))
@settings(max_examples=200, deadline=None)
def test_a_cut_text_loses_nothing(text: str, share: float) -> None:
    head, tail = (part.decode() for part in cut_text(text.encode(), val_fraction=share))
    assert head + tail == text
    assert head or not text


def test_answers_counted_from_1_are_known_by_the_row_beyond_the_sample(tmp_path: Path) -> None:
    """The first 50 rows hold no top index, and read as counted from 0 they gave every question a wrong gold."""
    rows = [{"question": f"{n}?", "choices": ["a", "b", "c", "d"], "answer": str(1 + n % 3)} for n in range(60)]
    rows.append({"question": "last?", "choices": ["a", "b", "c", "d"], "answer": "4"})
    result = _import(_write(tmp_path / "rows.jsonl", rows))
    assert result.mapping["answer"] == "answer_from_1"
    assert [row["answer"] for row in iter_rows(Path(result.folder), split="train")][:3] == [0, 1, 2]
    with pytest.raises(InvalidInput, match="may count the choices from 0 or from 1"):
        _import(_write(tmp_path / "unclear.jsonl", rows[:60]))


def test_a_benchmark_keeps_the_columns_that_its_rows_have_no_field_for(tmp_path: Path) -> None:
    answer = "Two and one is 2 + 1 = 3.\n#### 3"
    result = _import(_write(tmp_path / "rows.jsonl", [{"question": "2 + 1?", "answer": answer, "level": 2}]))
    (row,) = iter_rows(Path(result.folder), split="train")
    assert row["answers"] == ["3"]
    assert columns_of(row) | {"canonical": None, "raw": None} == {
        "question": "2 + 1?",
        "answers": ["3"],
        "answer": answer,
        "level": 2,
        "canonical": None,
        "raw": None,
    }


def test_rows_as_they_are_keep_every_column_and_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [{"prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"n": None}]}]
    _write(folder / "a.jsonl", rows)
    (folder / "b.jsonl").write_text(json.dumps({**rows[0], "prompt": "Draw \ud800."}) + "\n")
    result = _import(folder)
    assert (result.kind, result.rows, result.val_rows) == ("records", 2, 0)
    remaining = [columns_of(row) for row in iter_rows(Path(result.folder), split="train")]
    assert [(row["file"], row["prompt"]) for row in remaining] == [("a.jsonl", "Write."), ("b.jsonl", "Draw \ud800.")]
    assert remaining[0]["kwargs"] == [{"n": None}]
    lines = tmp_path / "lines.txt"
    lines.write_text("one two\nthree four\n")
    assert _import(lines, kind="records").rows == 2
