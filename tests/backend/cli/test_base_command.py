"""`roundhouse base`: a base from the Hub at a revision, shown afterwards; what MODEL_PATH holds; refusals with their status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import commit_id, run_hub
from tests.jobs.base_folders import save_base


@pytest.fixture
def roundhouse(home: Path) -> Any:
    """Run `roundhouse base` on an installation of its own. Returns (status, the JSON that it printed)."""
    environment = {**os.environ, "ROUNDHOUSE_HOME": str(home), "DATABASE_URL": f"sqlite:///{home / 'models.db'}", "OMP_NUM_THREADS": "1"}
    environment |= {"REDIS_URL": "redis://127.0.0.1:1/0"}

    def run(*arguments: str, **extra: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "backend.cli.main", "base", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env={**environment, **extra}, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout)

    return run


def test_a_base_of_the_hub_is_added_at_its_revision_and_shown(roundhouse: Any, tmp_path: Path) -> None:
    save_base(tmp_path / "hub/models/tiny/llama@v1")
    commit = commit_id(tmp_path / "hub/models/tiny/llama@v1")
    with run_hub(tmp_path / "hub") as hub:
        hub.private.add("tiny/llama")
        place = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secretkey"}
        status, looked = roundhouse("check", "tiny/llama@v1", **place)
        assert (status, looked["family"], looked["revision"], looked["licence"]) == (
            0,
            "llama",
            commit,
            "mill (https://mill.example/terms)",
        )
        assert looked["download_bytes"] > looked["bytes"]
        status, added = roundhouse("add", "tiny/llama", "--revision", "v1", "--name", "mill", **place)
        assert (status, added["revision"], added["source"]) == (0, commit, "tiny/llama@v1")
        status, refused = roundhouse("check", "tiny/llama", **{**place, "HF_HUB_OFFLINE": "1"})
        assert status == 1
        assert "HF_HUB_OFFLINE is set" in refused["error"]
    status, shown = roundhouse("show", "mill")
    assert (status, shown["parameters"], shown["licence"]) == (0, looked["parameters"], looked["licence"])
    written = "".join(
        path.read_text(errors="replace") for path in (tmp_path / "home").rglob("*") if path.is_file() and path.suffix != ".key"
    )
    assert "secretkey" not in written, "the key is not kept anywhere"


def test_what_lies_under_model_path_is_listed_with_what_it_is_or_why_it_can_not_be_used(roundhouse: Any, tmp_path: Path) -> None:
    models = tmp_path / "models"
    save_base(models / "good")
    (save_base(models / "cut") / "model.safetensors").write_bytes(b"12345678")
    status, found = roundhouse("scan", MODEL_PATH=str(models))
    assert status == 0
    assert [(offer["name"], offer["family"], bool(offer["problem"])) for offer in found["offers"]] == [
        ("good", "llama", False),
        ("cut", None, True),
    ]
    status, refused = roundhouse("add", str(models / "cut"), "--name", "cut")
    assert status == 2
    assert "not a safetensors file" in refused["error"]
