"""Folders that `save_to_disk` of Hugging Face `datasets` writes, through the import job."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from backend.errors import InvalidInput, NotFound
from backend.infra.files.heads import head_of_path
from backend.infra.files.local import saved_splits
from jobs.data.run import run
from jobs.modeling.dataset_files import iter_rows
from tests.support.data.data_reporter import RememberingReporter
from tests.support.jobs import make_spec


def _rows(start: int, count: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Count to {n}.", "output": f"That is {n} numbers."} for n in range(start, start + count)]


def _save(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(str(folder))
    return folder


def _import(source: Path, **payload: Any) -> tuple[dict[str, Any], dict[str, list[str]], list[str]]:
    """Return the job's result, split -> prompts of its rows, and the log."""
    reporter = RememberingReporter()
    spec = make_spec("import_dataset", {"source": str(source), "max_rejected": 1, **payload}, root=source.parent)
    result = run(spec, reporter).dump()
    stored = source.parent / result["folder"]
    prompts = {split: [row["prompt"] for row in iter_rows(stored, split=split)] for split in ("train", "val")}  # type: ignore[arg-type]
    return result, prompts, reporter.lines


def test_a_saved_dict_keeps_its_splits_and_lists_those_left_out(tmp_path: Path) -> None:
    source = _save(tmp_path / "saved", train=_rows(0, 40), test=_rows(100, 6), validation=_rows(200, 9))
    result, prompts, log = _import(source, val_fraction=0.3)
    assert (result["kind"], result["rows"], result["rejected_count"]) == ("instruction", 49, 0)
    assert prompts["train"] == [row["instruction"] for row in _rows(0, 40)]
    assert prompts["val"] == [row["instruction"] for row in _rows(200, 9)]
    assert result["ignored"] == [{"file": "test", "reason": "a split that was not chosen"}]
    assert "The source's own splits are kept." in log


@pytest.mark.parametrize("inside", [".", "saved"], ids=["at the top", "in a folder"])
def test_a_zip_of_a_saved_dict_keeps_its_splits(tmp_path: Path, inside: str) -> None:
    saved = _save(tmp_path / "saved", test=_rows(100, 6), train=_rows(0, 40), validation=_rows(200, 9))
    folder = tmp_path / "sent"
    folder.mkdir()
    root = saved if inside == "." else saved.parent
    packed = Path(shutil.make_archive(str(folder / "saved"), "zip", root, inside))
    assert list(saved_splits(packed) or ()) == ["test", "train", "validation"]
    head = head_of_path(packed)
    assert (head.rows[0], head.val_split) == (_rows(0, 1)[0], "validation")
    result, prompts, log = _import(packed, val_fraction=0.3)
    assert (result["rows"], result["ignored"]) == (49, [{"file": "test", "reason": "a split that was not chosen"}])
    assert prompts == {
        split: [row["instruction"] for row in rows] for split, rows in (("train", _rows(0, 40)), ("val", _rows(200, 9)))
    }
    assert "The source's own splits are kept." in log
    assert _import(packed, split="test", val_fraction=0.5)[0]["rows"] == 6
    assert _import(saved, val_fraction=0.3)[0]["content_hash"] == result["content_hash"]
    assert not list(folder.glob(".unpacked*"))


def test_a_zip_whose_record_names_other_files_or_is_endless_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "saved.zip"
    for record, message in (
        ('{"splits": ["../elsewhere"]}', "is not a folder in it"),
        (" " * 70_000_000, "70,000,000 bytes"),
    ):
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("dataset_dict.json", record)
            archive.writestr("train/data-0.arrow", "x" * 2**20 + "".join(map(str, range(100_000))))
        with pytest.raises(InvalidInput, match=message):
            head_of_path(packed)


def test_without_validation_the_test_split_is_held_out(tmp_path: Path) -> None:
    _, prompts, _ = _import(_save(tmp_path / "saved", train=_rows(0, 40), test=_rows(100, 6)))
    assert (len(prompts["train"]), len(prompts["val"])) == (40, 6)


def test_one_named_split_is_split_like_any_file(tmp_path: Path) -> None:
    source = _save(tmp_path / "saved", train=_rows(0, 40), test=_rows(100, 20))
    result, prompts, _ = _import(source, split="test", val_fraction=0.25)
    assert (result["rows"], len(prompts["val"])) == (20, 5)
    assert set(prompts["train"]) | set(prompts["val"]) == {row["instruction"] for row in _rows(100, 20)}
    with pytest.raises(NotFound, match=r"has no split 'dev' \(there are: train, test\)"):
        _import(source, split="dev")


def test_a_single_saved_dataset_is_imported(tmp_path: Path) -> None:
    Dataset.from_list(_rows(0, 30)).save_to_disk(str(tmp_path / "one"), num_shards=3)
    result, prompts, _ = _import(tmp_path / "one", val_fraction=0.1)
    assert (result["rows"], result["files"], len(prompts["val"])) == (30, 3, 3)


def test_splits_without_train_have_to_be_chosen(tmp_path: Path) -> None:
    source = _save(tmp_path / "saved", english=_rows(0, 9), german=_rows(50, 9))
    with pytest.raises(InvalidInput, match="2 splits, none of them called train: english, german"):
        _import(source)
    assert _import(source, split="german")[0]["rows"] == 9


def test_the_same_rows_split_differently_are_another_version(tmp_path: Path) -> None:
    one, _, _ = _import(_save(tmp_path / "one", train=_rows(0, 30), validation=_rows(30, 10)))
    other, _, _ = _import(_save(tmp_path / "other", train=_rows(0, 20), validation=_rows(20, 20)))
    assert one["content_hash"] != other["content_hash"]
    assert (one["train_rows"], other["train_rows"]) == (30, 20)


def test_bad_rows_of_a_saved_dataset_are_named_by_split_and_row(tmp_path: Path) -> None:
    train, val = _rows(0, 20), _rows(30, 5)
    train[3]["output"] = "  "
    val[1]["instruction"] = None
    result, _, _ = _import(_save(tmp_path / "saved", train=train, validation=val))
    assert [(row["file"], row["row"], row["reason"]) for row in result["rejected"]] == [
        ("train", 4, "`completion` is empty"),
        ("validation", 2, "`prompt` holds nothing where text is expected"),
    ]


def test_the_first_rows_are_those_of_the_chosen_split(tmp_path: Path) -> None:
    source = _save(tmp_path / "saved", test=_rows(100, 6), train=_rows(0, 9))
    assert head_of_path(source).rows[0] == _rows(0, 1)[0]
    assert head_of_path(source, split="test").rows[0] == _rows(100, 1)[0]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset_dict.json", lambda _: "{", "dataset_dict.json"),
        ("dataset_dict.json", lambda _: '{"splits": []}', "it lists no splits"),
        ("dataset_dict.json", lambda _: '{"splits": ["../elsewhere"]}', "is not a folder in it"),
        ("train/state.json", lambda text: text.replace('"data-0', '"../../secret-0'), "is missing"),
        ("train/data-00000-of-00001.arrow", lambda _: "no arrow", "can't be loaded"),
    ],
    ids=["no json", "no splits", "climbs out", "file outside", "damaged"],
)
def test_a_damaged_or_hostile_saved_dataset_is_refused(tmp_path: Path, file: str, change: Any, message: str) -> None:
    source = _save(tmp_path / "saved", train=_rows(0, 9), validation=_rows(9, 3))
    (tmp_path / "secret-00000-of-00001.arrow").write_bytes((source / "train/data-00000-of-00001.arrow").read_bytes())
    path = source / file
    path.write_text(change(path.read_bytes().decode("utf-8", "replace")))
    with pytest.raises(InvalidInput, match=message):
        _import(source)


def test_a_saved_format_of_tensors_changes_nothing(tmp_path: Path) -> None:
    source = _save(tmp_path / "saved", train=_rows(0, 9))
    state = source / "train/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_format_type": "numpy"}))
    assert _import(source, val_fraction=0.0)[1]["train"] == [row["instruction"] for row in _rows(0, 9)]


def test_a_split_of_plain_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InvalidInput, match="has no splits to choose from"):
        _import(tmp_path / "rows.jsonl", split="train")
