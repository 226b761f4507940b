"""Exports of dataset versions, read back by the tools that they are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset, load_from_disk

from backend.domain.data.rows.mapping import clean_row
from backend.errors import JobFailed, NotFound, Unavailable
from jobs.data.export import merge_cards, run
from jobs.modeling.dataset_files import iter_rows
from tests.support.data.data_reporter import RememberingReporter, import_rows
from tests.support.data.hub_server import HubServer, run_hub
from tests.support.jobs import make_spec

KEY = "hf_secretsecretsecret"
CARD = (
    "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files: []\ntags:\n- chat\n---\n# Tales\n\nNotes of"
    " ours.\n"
)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A chat version of 40 rows, some with calls of tools."""
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Count to {n}."},
                {"role": "assistant", "content": f"Up to {n}.", **({"tool_calls": [call]} if n % 9 == 0 else {})},
            ]
        }
        for n in range(40)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(import_rows(source, tmp_path / "datasets", val_fraction=0.2).folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", KEY)
        yield server


def _export(version: Path, format: str, *, reporter: Any = None, **payload: Any) -> dict[str, Any]:
    fields = {
        "dataset": f"datasets/{version.name}",
        "version_id": "v",
        "format": format,
        "name": "tales@1",
        "card": CARD,
        "out": "out",
    }
    return run(
        make_spec("export_dataset", {**fields, **payload}, root=version.parents[1]), reporter or RememberingReporter()
    ).dump()


def _stored(version: Path, split: Any) -> list[dict[str, Any]]:
    return list(iter_rows(version, split=split))


def test_a_saved_export_is_opened_by_datasets_and_imported_again_with_its_splits(version: Path, tmp_path: Path) -> None:
    result = _export(version, "datasets")
    assert result["rows"] == {"train": 32, "validation": 8}
    opened = load_from_disk(str(tmp_path / "out"))
    assert list(opened) == ["train", "validation"]
    assert [clean_row(row) for row in opened["train"]] == _stored(version, "train")
    again = import_rows(tmp_path / "out", tmp_path / "again")
    assert (again.train_rows, again.val_rows, again.rejected_count) == (32, 8, 0)
    for split in ("train", "val"):
        assert _stored(Path(again.folder), split) == _stored(version, split)
    assert not list((tmp_path / "datasets").glob(".arrow-*"))


def test_json_lines_hold_the_rows_without_empty_fields(version: Path, tmp_path: Path) -> None:
    _export(version, "jsonl")
    lines = (tmp_path / "out/validation.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == _stored(version, "val")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "train.jsonl",
        "validation.jsonl",
    ]


def test_parquet_has_the_layout_of_the_hub_and_is_loaded_by_datasets(version: Path, tmp_path: Path) -> None:
    _export(version, "parquet", card="")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert [clean_row(row) for row in loaded["validation"]] == _stored(version, "val")


def test_a_push_is_loaded_from_the_hub_and_keeps_our_card(hub: HubServer, version: Path, tmp_path: Path) -> None:
    reporter = RememberingReporter()
    result = _export(version, "jsonl", push={"repo": "me/tales", "private": True}, reporter=reporter)
    assert result["pushed"]["repo"] == "me/tales"
    assert result["pushed"]["url"] == f"{hub.url}/datasets/me/tales"
    assert hub.created == {"me/tales": True}
    pushed = hub.root / "datasets/me/tales"
    assert sorted(path.relative_to(pushed).as_posix() for path in pushed.rglob("*.parquet")) == [
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    ]
    card = (pushed / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["tags"]) == ("mit", ["chat"])
    assert [file["split"] for file in front["configs"][0]["data_files"]] == ["train", "validation"]
    assert [split["num_examples"] for split in front["dataset_info"]["splits"]] == [32, 8]
    assert "Notes of ours." in card
    program = (
        "import json, sys, datasets\nprint(json.dumps(datasets.load_dataset('me/tales', split='validation').to_list()))"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    loaded = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert [clean_row(row) for row in json.loads(loaded.stdout)] == _stored(version, "val")
    assert KEY not in "".join(reporter.lines)


def test_a_push_without_a_key_or_to_a_hub_that_refuses_leaves_no_files(
    hub: HubServer, version: Path, tmp_path: Path
) -> None:
    hub.status = 503
    with pytest.raises(Unavailable, match="503"):
        _export(version, "jsonl", push={"repo": "me/tales", "private": True})
    assert not (tmp_path / "out").exists()
    hub.status = None
    os.environ.pop("HF_TOKEN")
    with pytest.raises(Unavailable, match="needs a key of the Hub"):
        _export(version, "jsonl", push={"repo": "me/tales", "private": True})
    assert not (tmp_path / "out").exists()


def test_an_export_is_stopped_on_request_and_one_of_a_deleted_version_is_refused(version: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="stopped on request"):
        _export(version, "jsonl", reporter=RememberingReporter(stop_after=0))
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFound, match="files are gone"):
        _export(version, "parquet", dataset="datasets/none")


def test_a_card_takes_the_description_of_the_pushed_files() -> None:
    merged = merge_cards(CARD, "---\nconfigs: [1]\ndataset_info: {a: 2}\nlicense: other\n---\nDefault text.\n")
    front = yaml.safe_load(merged.split("---\n")[1])
    assert front == {"license": "mit", "configs": [1], "tags": ["chat"], "dataset_info": {"a": 2}}
    assert merged.endswith("# Tales\n\nNotes of ours.\n")
    assert yaml.safe_load(merge_cards("", "---\nconfigs: [1]\n---\n").split("---\n")[1]) == {"configs": [1]}
