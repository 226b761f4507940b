"""`roundhouse base`: a base from the Hub at a revision, shown afterwards; what MODEL_PATH holds; refusals with their
status.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session
from typer.testing import CliRunner

from backend.bootstrap import get_context
from backend.cli.main import app
from tests.support.data.hub_server import commit_id, run_hub
from tests.support.networks.base_folders import save_base
from tests.support.settings import name_installation

Roundhouse = Callable[..., tuple[int, Any]]


@pytest.fixture
def roundhouse(
    home: Path, jobs_done_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Roundhouse]:
    """Run `roundhouse base` on an installation of its own, with a MODEL_PATH. Returns (status, the JSON that it
    printed).
    """
    name_installation(monkeypatch, home, MODEL_PATH=str(tmp_path / "models"), OMP_NUM_THREADS="1")

    def run(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(app, ["base", *arguments, "--json"])
        return done.exit_code, json.loads(done.stdout)

    yield run
    get_context().db.engine.dispose()
    get_context.cache_clear()


def test_a_base_of_the_hub_is_added_at_its_revision_and_shown(
    roundhouse: Roundhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(tmp_path / "hub/models/tiny/llama@v1")
    commit = commit_id(tmp_path / "hub/models/tiny/llama@v1")
    monkeypatch.setenv("HF_TOKEN", "hf_secretkey")
    with run_hub(tmp_path / "hub") as hub:
        hub.private.add("tiny/llama")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        status, looked = roundhouse("check", "tiny/llama@v1")
        assert (status, looked["family"], looked["revision"], looked["licence"]) == (
            0,
            "llama",
            commit,
            "mill (https://mill.example/terms)",
        )
        assert looked["download_bytes"] > looked["bytes"]
        status, added = roundhouse("add", "tiny/llama", "--revision", "v1", "--name", "mill")
        assert status == 0
        assert (added["revision"], added["source"]) == (commit, "tiny/llama@v1")
    close_session()  # its connections would still be answered
    status, refused = roundhouse("check", "tiny/llama")
    assert status == 1
    assert "can't be reached" in refused["error"]
    status, shown = roundhouse("show", "mill")
    assert (status, shown["parameters"], shown["licence"]) == (0, looked["parameters"], looked["licence"])
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not [path for path in files if b"secretkey" in path.read_bytes()], "the key is kept nowhere"


def test_candidates_under_model_path_are_listed_with_facts_or_the_reason_against_them(
    roundhouse: Roundhouse, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    save_base(models / "good")
    (save_base(models / "cut") / "model.safetensors").write_bytes(b"12345678")
    status, listed = roundhouse("scan")
    assert status == 0
    assert [(offer["name"], offer["family"], bool(offer["problem"])) for offer in listed["offers"]] == [
        ("good", "llama", False),
        ("cut", None, True),
    ]
    status, refused = roundhouse("add", str(models / "cut"), "--name", "cut")
    assert status == 2
    assert "not a safetensors file" in refused["error"]
