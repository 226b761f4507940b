"""A base is loaded once when it is added, and weights that do not match their config are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from backend.errors import InvalidInput, JobFailed
from backend.infra.checkpoints.candidates import known_families
from jobs.modeling.entries.base import run
from tests.support.data.data_reporter import RememberingReporter
from tests.support.jobs import make_spec
from tests.support.networks.base_folders import edit_json, save_base


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("made") / "good")


def add(root: Path, source: Path, **payload: Any) -> dict[str, Any]:
    spec = make_spec(
        "add_base", {"source": str(source), "hub": None, "out": "bases/b", **payload}, root=root, folder=root
    )
    return run(spec, RememberingReporter()).dump()


def change_weights(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def spoil(folder: Path, how: str) -> None:
    """Damage a checkpoint in a way that its headers do not show."""
    if how == "another shape":
        change_weights(folder, lambda w: w.update({"model.layers.0.self_attn.q_proj.weight": torch.zeros(16, 32)}))
    elif how == "a tensor less":
        change_weights(folder, lambda w: w.pop("model.norm.weight"))
    elif how == "not finite":
        change_weights(folder, lambda w: w["model.norm.weight"].fill_(float("nan")))
    elif how == "a network of terabytes":
        edit_json(folder / "config.json", hidden_size=2**20, intermediate_size=2**22)
    elif how == "sizes that are no numbers":
        edit_json(folder / "config.json", hidden_size="wide")
    elif how == "no heads":
        edit_json(folder / "config.json", num_attention_heads=0)
    elif how == "a tokenizer that is none":
        (folder / "tokenizer.json").write_text("[]")
    else:
        edit_json(folder / "tokenizer.json", model={"type": "Perceptron"})


@pytest.mark.parametrize(
    "how",
    [
        "another shape",
        "a tensor less",
        "not finite",
        "a network of terabytes",
        "sizes that are no numbers",
        "no heads",
        "a tokenizer that is none",
        "a tokenizer of another kind",
    ],
)
def test_a_base_that_fails_to_load_is_refused_and_leaves_no_files(good: Path, tmp_path: Path, how: str) -> None:
    folder = shutil.copytree(good, tmp_path / "source")
    spoil(folder, how)
    with pytest.raises(InvalidInput) as refused:
        add(tmp_path, folder)
    assert len(refused.value.message) < 600
    assert not list((tmp_path / "bases").glob("*"))
    assert not list((tmp_path / "bases").glob(".*"))


def test_a_full_disk_is_reported_before_anything_is_copied(good: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="The disk has"):
        add(tmp_path, good, keep_free_bytes=shutil.disk_usage(tmp_path).total)


def test_the_known_families_are_those_of_transformers() -> None:
    assert known_families() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
