"""Weight statistics against direct computation, in slices and whole, with outliers and differences."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file

from backend.errors import InvalidInput
from jobs.modeling import weight_statistics
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from jobs.modeling.weight_statistics import (
    NUM_BINS,
    REACH,
    WeightFolder,
    find_outliers,
    read_change,
    read_tensor,
    split_name,
)
from tests.support.networks.inspection_networks import make_network


def save_weights(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def read_all(folder: Path) -> dict[str, Any]:
    with WeightFolder(folder) as weights:
        return {name: read_tensor(weights, name) for name in weights.names()}


@pytest.mark.parametrize("chunk", [10, 4_000_000], ids=["row by row", "whole"])
def test_statistics_equal_direct_computation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(weight_statistics, "CHUNK_VALUES", chunk)
    torch.manual_seed(0)
    matrix = torch.randn(40, 30).to(torch.bfloat16)
    matrix[3, 4:8] = 0
    result = read_all(save_weights(tmp_path / "w", matrix=matrix, vector=torch.arange(5.0), cube=torch.randn(3, 4, 5)))
    one, values = result["matrix"], matrix.double().numpy()
    assert (one.shape, one.dtype, one.values, one.not_finite) == ((40, 30), "BF16", 1200, 0)
    assert one.rms == pytest.approx(math.sqrt((values**2).mean()), rel=1e-6)
    assert one.mean == pytest.approx(values.mean(), rel=1e-5)
    assert one.largest == np.abs(values).max()
    assert one.zeros == (values == 0).mean()
    assert one.spectral == pytest.approx(np.linalg.norm(values, 2), rel=1e-3)
    norms = np.linalg.norm(values, axis=0)
    assert one.column_peak is not None
    assert one.column_peak[1] == norms.argmax()
    expected, _ = np.histogram(np.clip(values / one.rms, -REACH, REACH), bins=NUM_BINS, range=(-REACH, REACH))
    assert np.abs(one.counts - expected).sum() <= 2  # a value on a bin's border may fall to either side
    assert one.counts.sum() == 1200
    assert result["vector"].rms == pytest.approx(math.sqrt(6))
    assert result["cube"].values == 60
    assert result["cube"].spectral is None


def test_a_scaled_tensor_changes_by_the_scale_and_an_equal_one_by_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(20, 10), torch.randn(20, 10)
    first = save_weights(tmp_path / "a", same=a, scaled=a, other=a)
    second = save_weights(tmp_path / "b", same=a, scaled=a * 1.1, other=b)
    with WeightFolder(first) as left, WeightFolder(second) as right:
        same, scaled, other = (read_change(left, right, name) for name in ("same", "scaled", "other"))
    assert (same.relative, same.cosine) == (0.0, pytest.approx(1.0))
    assert (scaled.relative, scaled.cosine) == (pytest.approx(0.1, rel=1e-4), pytest.approx(1.0))
    assert other.relative == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-5)
    assert other.cosine == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())), rel=1e-5)


def test_outlier_tensors_are_flagged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"model.layers.{layer}.mlp.up.weight": torch.randn(30, 30) for layer in range(8)}
    tensors["model.layers.5.mlp.up.weight"] *= 4
    tensors["model.layers.1.mlp.up.weight"][2, 3] = math.nan
    channel, spike = torch.randn(40, 40), torch.randn(100, 100)
    channel[:, 7] *= 30
    spike[0, 0] = 90
    folder = save_weights(
        tmp_path / "w", **tensors, dead=torch.zeros(9, 9), channel=channel, spike=spike, fine=torch.randn(30, 30)
    )
    outliers = find_outliers(list(read_all(folder).values()))
    words = {outlier.name: outlier.text for outlier in reversed(outliers)}
    assert outliers[0].name == "model.layers.1.mlp.up.weight"
    assert "1 of 900 values are NaN or infinite" in words["model.layers.1.mlp.up.weight"]
    assert words["dead"] == "every value is zero"
    assert "column 7 has" in words["channel"]
    assert "its largest value, 90, is" in words["spike"]
    assert "times that of the other layers" in words["model.layers.5.mlp.up.weight"]
    assert set(words) == {"model.layers.1.mlp.up.weight", "model.layers.5.mlp.up.weight", "dead", "channel", "spike"}


def test_tensor_names_of_every_family_are_split_into_layer_and_part() -> None:
    assert split_name("model.layers.12.self_attn.q_proj.weight") == (12, "self_attn.q_proj.weight")
    assert split_name("transformer.h.3.attn.c_attn.weight") == (3, "attn.c_attn.weight")
    assert split_name("h.0.mlp.dense_h_to_4h.bias") == (0, "mlp.dense_h_to_4h.bias")
    assert split_name("model.embed_tokens.weight") == (None, "embed_tokens.weight")


def test_an_adapter_is_merged_and_its_difference_to_the_base_is_its_matrices(tmp_path: Path) -> None:
    base = make_network("llama")
    save_checkpoint(tmp_path / "base", model=base, tokenizer=byte_tokenizer(), meta={})
    adapted = peft.get_peft_model(
        base, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = "base"
    save_checkpoint(
        tmp_path / "adapter", model=adapted, tokenizer=byte_tokenizer(), meta={"base": "base", "base_path": "../base"}
    )
    with WeightFolder(tmp_path / "base") as left, WeightFolder(tmp_path / "adapter") as right:
        assert set(left.names()) == set(right.names())
        name = "model.layers.1.self_attn.q_proj.weight"
        change = read_change(left, right, name)
        assert read_change(left, right, "model.layers.1.self_attn.k_proj.weight").norm_change == 0
    layer = adapted.base_model.model.model.layers[1].self_attn.q_proj
    delta = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert change.norm_change == pytest.approx(float(delta.detach().norm()), rel=1e-4)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = save_weights(tmp_path / "w", a=torch.ones(3))
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(InvalidInput, match="safetensors"):
        read_all(folder)
