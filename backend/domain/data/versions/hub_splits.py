"""Assign the files of a Hub dataset to configs and splits, by their names and the dataset's card. Pure.

The rules are those of the Hub ("Structure your repository", huggingface.co/docs/hub/datasets-data-files-configuration)
and of `datasets`; a test compares the two. The files themselves are not needed, and no code of the repository is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from fsspec.utils import glob_translate

from backend.domain.data.parsing.text_formats import suffix_of

Splits = dict[str, tuple[str, ...]]
"""Split -> paths of its files, in order."""

KEYWORDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
NO_DATA = frozenset(
    {"README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"}
)
_SHARD = re.compile(r"data/([^/]+?)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_BORDER = r"[-._ 0-9]"


def configs_of(paths: Iterable[str], card: Mapping[str, Any]) -> dict[str, Splits]:
    """Return config -> split -> files. A repository that states no config has one, `default`.

    `card` is the front matter of the README; invalid entries are ignored.
    """
    files = [path for path in sorted(paths) if _is_data(path)]
    stated = card.get("configs")
    configs = {
        str(config["config_name"]): _splits_of_config(files, config)
        for config in (stated if isinstance(stated, list) else [])
        if isinstance(config, dict) and config.get("config_name")
    }
    return {name: splits for name, splits in (configs or {"default": _splits_by_name(files)}).items() if splits}


def _is_data(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not (
        path in NO_DATA or ".." in parts or path.startswith("/") or any(part.startswith((".", "__")) for part in parts)
    )


def _splits_of_config(files: Sequence[str], config: Mapping[str, Any]) -> Splits:
    """Return the splits of a config that the card describes by `data_files`, by `data_dir`, or by both."""
    folder = str(config.get("data_dir") or "").strip("./")
    prefix = f"{folder}/" if folder else ""
    data_files = config.get("data_files")
    if not data_files:
        splits = _splits_by_name([file.removeprefix(prefix) for file in files if file.startswith(prefix)])
        return {split: tuple(prefix + path for path in paths) for split, paths in splits.items()}
    matched = {
        split: tuple(_match(files, [prefix + pattern for pattern in patterns]))
        for split, patterns in _patterns(data_files).items()
    }
    return {split: paths for split, paths in matched.items() if paths}


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Return split -> patterns from the forms that `data_files` may have: a pattern, a list, or {split, path} each."""
    if isinstance(data_files, dict):
        return {str(split): _listed(value) for split, value in data_files.items()}
    entries = data_files if isinstance(data_files, list) else [data_files]
    pairs = [
        (str(e.get("split", "train")), _listed(e.get("path"))) if isinstance(e, dict) else ("train", [str(e)])
        for e in entries
    ]
    patterns: dict[str, list[str]] = {}
    for split, values in pairs:
        patterns.setdefault(split, []).extend(values)
    return patterns


def _listed(value: Any) -> list[str]:
    return [str(part).removeprefix("./") for part in (value if isinstance(value, list) else [value]) if part]


def _match(files: Sequence[str], patterns: Sequence[str]) -> list[str]:
    tests = [re.compile(glob_translate(pattern)) for pattern in patterns]
    return [file for file in files if any(test.match(file) for test in tests)]


def _splits_by_name(files: Sequence[str]) -> Splits:
    """Return the splits by name: shards, then folders, then files called train, test, dev; else `train`."""
    shards: dict[str, list[str]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file):
            shards.setdefault(match[1], []).append(file)
    named = (
        shards or _by_keyword(files, in_folder=True) or _by_keyword(files, in_folder=False) or {"train": list(files)}
    )
    return {split: tuple(paths) for split, paths in named.items() if paths}


def _by_keyword(files: Sequence[str], *, in_folder: bool) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for split, words in KEYWORDS.items():
        word = re.compile(rf"(?:.*{_BORDER})?(?:{'|'.join(words)})(?:{_BORDER}.*)?")
        for file in files:
            *folders, name = PurePosixPath(file).parts
            # as in `datasets`, the word must be followed by something, as in train.csv
            if (
                any(map(word.fullmatch, folders))
                if in_folder
                else (word.fullmatch(name) and PurePosixPath(name).suffix)
            ):
                splits.setdefault(split, []).append(file)
    return splits


def most_common_ending(paths: Sequence[str]) -> tuple[str, ...]:
    """Keep the readable files of the one ending that most of them have (a licence among the shards is not a row)."""
    endings = {path: suffix_of(path)[0] for path in paths}
    if not endings:
        return ()
    (ending, _), *_ = Counter(endings.values()).most_common(1)
    return tuple(path for path in paths if endings[path] == ending)
