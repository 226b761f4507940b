"""Splits of a repository from its file names and card, as `datasets` tells them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backend.domain.data.versions.hub_splits import configs_of

LAYOUTS = {
    "one file": ["stories.jsonl", "README.md", ".gitattributes"],
    "shards": [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test_sft-00000-of-00001.parquet",
        "extra.csv",
    ],
    "names": ["my_train_set.csv", "dev.csv", "x.test.csv", "notes.txt"],
    "folders": ["training/a.jsonl", "valid/b.jsonl", "eval-2/c.jsonl"],
    "a folder goes before a name": ["train/test.jsonl", "other/test.jsonl"],
    "a word inside a word is none": ["trainer.jsonl", "contest.jsonl"],
    "hidden and private": ["a.jsonl", ".cache/b.jsonl", "__pycache__/c.jsonl"],
}
CARDS = {
    "patterns by split": [
        {
            "config_name": "a",
            "data_files": [{"split": "train", "path": "a/*.csv"}, {"split": "test", "path": ["b/x.csv"]}],
        }
    ],
    "one pattern": [
        {"config_name": "a", "data_files": "a/*.csv"},
        {"config_name": "b", "data_files": ["b/x.csv", "b/y.csv"]},
    ],
    "a folder": [{"config_name": "a", "data_dir": "a"}, {"config_name": "b", "data_dir": "b"}],
    "all below": [{"config_name": "all", "data_files": "**/*.csv"}],
}
FILES = ["a/train.csv", "a/test.csv", "b/x.csv", "b/y.csv", "README.md"]


def by_datasets(
    folder: Path, files: list[str], configs: list[dict[str, object]] | None
) -> dict[str, dict[str, set[str]]]:
    """Let `datasets` say which files are which split of which config of a folder."""
    from datasets import get_dataset_config_names, load_dataset_builder

    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text\na\n" if name.endswith(".csv") else '{"text": "a"}\n')
    if configs is not None:
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    splits = {}
    for config in get_dataset_config_names(str(folder)):
        data_files = load_dataset_builder(str(folder), config).config.data_files
        splits[config] = {
            str(split): {Path(path).relative_to(folder).as_posix() for path in paths}
            for split, paths in data_files.items()
        }
    return splits


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_names_are_read_as_datasets_reads_them(tmp_path: Path, layout: list[str]) -> None:
    ours = configs_of(layout, {})
    theirs = by_datasets(tmp_path, [name for name in layout if name != "README.md"], None)
    assert {split: set(paths) for split, paths in ours["default"].items()} == theirs["default"]


@pytest.mark.parametrize("configs", CARDS.values(), ids=CARDS.keys())
def test_a_card_is_read_as_datasets_reads_it(tmp_path: Path, configs: list[dict[str, object]]) -> None:
    ours = configs_of(FILES, {"configs": configs})
    theirs = by_datasets(tmp_path, FILES, configs)
    assert {name: {split: set(paths) for split, paths in splits.items()} for name, splits in ours.items()} == theirs


def test_an_invalid_card_is_ignored() -> None:
    assert configs_of(["a.jsonl"], {"configs": "none"}) == {"default": {"train": ("a.jsonl",)}}
    assert configs_of(["a.jsonl", "../b.jsonl", "/c.jsonl"], {"configs": [{"data_files": 3}, 7]}) == {
        "default": {"train": ("a.jsonl",)}
    }
