"""A frozen base in 16 bits: the same losses and adapters as in float32, half the memory, and exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.domain.architectures.config import ArchitectureConfig
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import read_card, save_checkpoint, write_card
from jobs.modeling.entries.export import merge_adapter
from jobs.training import run as training
from jobs.training.context import read_training_context
from jobs.training.network.load import load_model, load_reference
from tests.support.training_rooms import Recorder, Rooms
from tests.support.workers.killed_runs import run_forked

LORA: dict[str, Any] = {"method": "lora", "learning_rate": 1e-2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_kv_heads": 2},
    "gpt2": {},
    "mixtral": {"num_kv_heads": 2, "num_experts": 4, "experts_per_token": 2},
}


def save_base(rooms: Rooms, family: str, *, dtype: torch.dtype) -> None:
    """Save an untrained network in a number format as the rooms' base."""
    small = {"num_layers": 2, "width": 32, "num_heads": 4, "context": 64, "vocab_size": 320}
    shape = ArchitectureConfig(family=family, **small, **FAMILIES[family])  # type: ignore[arg-type]
    network = build_network(shape, seed=3, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    save_checkpoint(rooms.root / "base", model=network.to(dtype), tokenizer=rooms.tokenizer, meta={})


def train(rooms: Rooms, name: str, **values: Any) -> tuple[Recorder, dict[str, torch.Tensor]]:
    """Train adapters; return what was reported, and the adapters."""
    recorder = Recorder()
    run = run_forked if "devices" in values else training.run
    result = run(rooms.training("sft", run=name, job=name, **{**LORA, **values}), recorder)
    return recorder, load_file(rooms.root / str(result.checkpoint) / "adapter_model.safetensors")


@pytest.mark.parametrize("variant", ["lora", "dora", "pissa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_in_bf16_has_the_losses_and_adapters_of_a_base_in_float32(
    tmp_path: Path, family: str, variant: str
) -> None:
    if family == "mixtral" and variant != "lora":
        pytest.skip("experts take no such adapters")
    rooms = Rooms(tmp_path)
    save_base(rooms, family, dtype=torch.bfloat16)
    (one, theirs), (two, ours) = (
        train(rooms, held, precision="bf16", lora={"frozen_base": held, "variant": variant})
        for held in ("fp32", "16-bit")
    )
    for name in ("train_loss", "val_loss", "grad_norm"):
        assert dict(two.series(name)) == pytest.approx(dict(one.series(name)), rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in ours.values())
    if variant != "dora":  # which measures the lengths of the matrices
        assert [two.series(name) for name in ("train_loss", "val_loss")] == [
            one.series(name) for name in ("train_loss", "val_loss")
        ]
        assert two.samples == one.samples
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_run_in_float32_is_the_same_whatever_the_field_says(rooms: Rooms) -> None:
    (one, theirs), (two, ours) = (
        train(rooms, f"plain {held}", lora={"frozen_base": held}) for held in ("fp32", "16-bit")
    )
    assert one.series("train_loss") == two.series("train_loss")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(("precision", "held"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_have_16_bits_and_what_is_small_or_trained_has_32(
    tmp_path: Path, family: str, precision: str, held: torch.dtype
) -> None:
    rooms = Rooms(tmp_path)
    save_base(rooms, family, dtype=torch.float32)
    ctx = read_training_context(rooms.training("dpo", **LORA, precision=precision), Recorder())
    model, reference = load_model(ctx, resume_from=None), load_reference(ctx)
    frozen = {name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    in_32 = ("norm", "bias", "ln_", "router", "mlp.gate.", "experts")
    matrices = {name for name in frozen if not any(part in name for part in in_32)}
    assert {frozen[name].dtype for name in matrices} == {held}
    assert len(matrices) >= 2 * 4 + 1
    rest = [tensor for name, tensor in model.named_parameters() if name not in matrices]
    assert {tensor.dtype for tensor in rest} == {torch.float32}
    base = dict(reference.named_parameters())
    for name in frozen:
        same = base[name.removeprefix("base_model.model.").replace("base_layer.", "")]
        assert torch.equal(same, frozen[name])
        assert same.dtype == frozen[name].dtype


def test_a_merged_export_has_the_weights_of_the_file_where_nothing_was_trained(rooms: Rooms) -> None:
    result = training.run(rooms.training("sft", run="merged", job="merged", **LORA, precision="bf16"), Recorder())
    merge_adapter(rooms.root / str(result.checkpoint), rooms.root / "whole")
    base, merged = (load_file(rooms.root / name / "model.safetensors") for name in ("base", "whole"))
    assert torch.equal(base["model.embed_tokens.weight"], merged["model.embed_tokens.weight"])
    changed = merged["model.layers.0.self_attn.q_proj.weight"] - base["model.layers.0.self_attn.q_proj.weight"]
    assert 0 < torch.linalg.matrix_rank(changed, rtol=1e-3) <= 8  # no rounding, which has the rank of the matrix


def test_a_run_that_an_earlier_version_began_resumes_with_its_base_in_float32(rooms: Rooms) -> None:
    values = {**LORA, "precision": "bf16", "max_steps": 9}  # enough steps after the third for a measurement
    undisturbed, adapters = train(rooms, "earlier", **values, lora={"frozen_base": "fp32"})
    training.run(
        rooms.training("sft", run="begun", job="begun", **values, lora={"frozen_base": "fp32"}),
        Recorder(stop_after=3, request="stop_and_save"),
    )
    folder = rooms.root / "begun/checkpoints/step-000003"
    counters = folder / "training_state/counters.json"
    assert json.loads(counters.read_text())["held_in"] is None
    told = {name: value for name, value in json.loads(counters.read_text()).items() if name != "held_in"}
    counters.write_text(json.dumps(told))
    card = {name: value for name, value in read_card(folder).items() if name not in ("files", "versions", "format")}
    write_card(folder, meta=card)
    resumed = Recorder()
    result = training.run(rooms.training("sft", run="begun", job="again", **values), resumed)
    assert resumed.series("train_loss") == undisturbed.series("train_loss")[3:]
    assert any("stays in float32" in line for line in resumed.lines)
    assert result.measurement is None, "it would be taken for one of a base in 16 bits"
    ours = load_file(rooms.root / str(result.checkpoint) / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in adapters.items())


def test_two_processes_hold_the_base_in_16_bits_too(rooms: Rooms) -> None:
    _, theirs = train(rooms, "one", precision="bf16", micro_batch=2, grad_accum_steps=2)
    _, ours = train(rooms, "two", precision="bf16", micro_batch=2, devices={"count": 2, "sharding": "ddp"})
    assert all(torch.allclose(ours[name], tensor, atol=2e-3) for name, tensor in theirs.items())
