"""The Hub of the tests answers what the Hub's own client library asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tests.support.data.hub_server import HubServer, commit_id, run_hub


@pytest.fixture
def hub(tmp_path: Path):  # type: ignore[no-untyped-def]
    model, data = tmp_path / "hub/models/tiny/llama", tmp_path / "hub/datasets/tiny/tales"
    for folder in (model, tmp_path / "hub/models/tiny/llama@v1", data / "data"):
        folder.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 200)
    (tmp_path / "hub/models/tiny/llama@v1/config.json").write_text('{"old": true}')
    (data / "data/train.jsonl").write_text('{"text": "a"}\n')
    with run_hub(tmp_path / "hub") as server:
        yield server


def test_a_revision_is_listed_and_downloaded(hub: HubServer, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.url)
    info = api.model_info("tiny/llama", revision="main", files_metadata=True)
    assert info.sha == commit_id(hub.root / "models/tiny/llama")
    assert info.card_data is not None
    assert info.card_data.license == "mit"
    assert {s.rfilename: s.size for s in info.siblings or []}["model.safetensors"] == 51_200
    hub.cuts["model.safetensors"] = [20_000]  # the connection breaks once: the client goes on from there
    got = snapshot_download("tiny/llama", endpoint=hub.url, local_dir=tmp_path / "got", revision=info.sha)
    assert Path(got, "model.safetensors").read_bytes() == bytes(range(256)) * 200
    old = hf_hub_download("tiny/llama", "config.json", revision="v1", endpoint=hub.url, local_dir=tmp_path / "old")
    assert Path(old).read_text() == '{"old": true}'


def test_a_dataset_is_read_through_the_file_system(hub: HubServer) -> None:
    files = HfFileSystem(endpoint=hub.url, skip_instance_cache=True)
    assert files.find("datasets/tiny/tales") == ["datasets/tiny/tales/data/train.jsonl"]
    with files.open("datasets/tiny/tales/data/train.jsonl") as stream:
        assert stream.read() == b'{"text": "a"}\n'


def test_a_missing_file_is_refused_as_by_the_hub(hub: HubServer) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("tiny/nothing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("tiny/llama", revision="v9")
    hub.gated.add("tiny/llama")
    with pytest.raises(GatedRepoError):
        api.model_info("tiny/llama")
