"""Copying the data files of an untrusted checkpoint folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import InvalidInput
from jobs.modeling.copying import list_data_files


def test_only_data_files_are_copied(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "modeling_evil.py"):
        (tmp_path / name).touch()
    assert [path.name for path in list_data_files(tmp_path)] == ["config.json", "model.safetensors"]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "base"
    folder.mkdir(parents=True)
    (tmp_path / "secret.key").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.key")
    with pytest.raises(InvalidInput, match=r"notes\.txt"):
        list_data_files(folder)


def test_a_snapshot_of_the_hub_cache_is_copied_through_its_links(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0f").touch()
    (snapshot / "config.json").symlink_to(Path("..") / ".." / "blobs" / "0f")
    assert [path.name for path in list_data_files(snapshot)] == ["config.json"]
