"""Variants of low-rank adapters: trained, saved as plain LoRA, merged, resumed bit for bit; refusals."""

from __future__ import annotations

import json
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import RunConfig
from backend.domain.training.config_sections import LoraConfig
from backend.errors import InvalidInput
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network, save_checkpoint
from jobs.training import run as training
from jobs.training.network.adapters import add_adapters
from tests.support.jobs import with_payload
from tests.support.training_rooms import TINY, Recorder, Rooms

VARIANTS = ("lora", "rslora", "dora", "pissa")
IDS = torch.arange(24)[None] * 5 % TINY.vocab_size


def config_of(variant: str, **values: Any) -> RunConfig:
    return RunConfig(
        objective="sft",
        dataset="d",
        base="b",
        method="lora",
        lora=LoraConfig(rank=4, alpha=6, variant=variant),
        **values,
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_adapters_give_the_trained_logits_on_the_base_and_merged(rooms: Rooms, variant: str, family: str) -> None:
    shape = ArchitectureConfig(
        family=family, num_layers=2, width=32, num_heads=4, context=64, vocab_size=TINY.vocab_size
    )
    base = rooms.root / f"base-{family}"
    save_checkpoint(base, model=build_network(shape, seed=3), tokenizer=rooms.tokenizer, meta={})
    model = add_adapters(load_network(base), config_of(variant), resume_from=None)
    before = load_network(base)(input_ids=IDS).logits
    torch.testing.assert_close(model(input_ids=IDS).logits, before, atol=1e-5, rtol=0)  # fresh adapters change nothing
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(3):
        torch.autograd.backward(model(input_ids=IDS, labels=IDS).loss)
        optimizer.step()
        optimizer.zero_grad()
    trained = model.eval()(input_ids=IDS).logits.detach()
    assert (trained - before).abs().max() > 0.05
    folder = rooms.root / f"adapter-{family}-{variant}"
    save_checkpoint(folder, model=model, tokenizer=rooms.tokenizer, meta={"base_path": f"../base-{family}"})
    anybodys = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(folder)
    )
    for network in (anybodys, load_network(folder)):
        torch.testing.assert_close(network.eval()(input_ids=IDS).logits, trained, atol=1e-5, rtol=0)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == (8 if variant == "pissa" else 4)


def test_pissa_starts_where_peft_starts_it(rooms: Rooms) -> None:
    ours = add_adapters(load_network(rooms.root / "base"), config_of("pissa"), resume_from=None)
    theirs = peft.get_peft_model(
        load_network(rooms.root / "base"),
        peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights="pissa", target_modules="all-linear"),
    )
    for (name, mine), (_, other) in zip(ours.named_modules(), theirs.named_modules(), strict=True):
        if isinstance(mine, peft.tuners.lora.LoraLayer) and isinstance(other, peft.tuners.lora.LoraLayer):
            torch.testing.assert_close(
                mine.get_base_layer().weight, other.get_base_layer().weight, atol=1e-5, rtol=0, msg=name
            )


@pytest.mark.parametrize("variant", ["dora", "pissa"])
def test_a_run_that_was_killed_repeats_its_losses(rooms: Rooms, variant: str) -> None:
    values: dict[str, Any] = {
        "method": "lora",
        "lora": LoraConfig(rank=4, variant=variant),
        "max_steps": 6,
        "checkpoint_every": 2,
    }
    whole, torn, again = Recorder(), Recorder(stop_after=3), Recorder()
    training.run(rooms.training("sft", run=f"whole {variant}", job=f"whole {variant}", **values), whole)
    training.run(rooms.training("sft", run=f"torn {variant}", job=f"torn {variant}", **values), torn)
    training.run(rooms.training("sft", run=f"torn {variant}", job=f"torn {variant}", attempt=2, **values), again)
    assert again.series("train_loss") == whole.series("train_loss")[2:]


@pytest.mark.parametrize(
    ("family", "lora", "words"),
    [
        ("mixtral", {"variant": "dora"}, "can't be dora"),
        ("mixtral", {"variant": "pissa"}, "can't be pissa"),
        ("qwen3_moe", {"dropout": 0.1}, "dropout of 0.1"),
        ("llama", {"variant": "pissa", "rank": 64}, "lora.rank 64 is more than the"),
    ],
)
def test_unsupported_adapters_are_refused(family: str, lora: dict[str, Any], words: str) -> None:
    shape = ArchitectureConfig(
        family=family, num_layers=1, width=32, num_heads=4, context=64, vocab_size=TINY.vocab_size
    )
    config = RunConfig(objective="sft", dataset="d", base="b", method="lora", lora=LoraConfig(**lora))
    with pytest.raises(InvalidInput, match=words) as error:
        add_adapters(build_network(shape, seed=1), config, resume_from=None)
    assert str(error.value.field).startswith("lora.")
    assert error.value.remedy


def test_qlora_is_refused_on_the_cpu(rooms: Rooms) -> None:
    with pytest.raises(InvalidInput, match="needs an NVIDIA GPU, and this run is on the CPU") as error:
        training.run(rooms.training("sft", run="few", job="few", method="qlora"), Recorder())
    assert (error.value.field, "method lora" in str(error.value.remedy)) == ("method", True)


@pytest.mark.parametrize("values", [{"objective": "sft", "lora": {"variant": "pissa"}}, {"objective": "reward"}])
def test_unsupported_qlora_settings_are_refused_in_the_config(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="qlora"):
        RunConfig.model_validate({"dataset": "d", "base": "b", "method": "qlora", **values})


@pytest.mark.parametrize("objective", ["sft", "reward"])
def test_a_base_that_is_an_adapter_is_merged_before_full_training(rooms: Rooms, objective: str) -> None:
    if not (rooms.root / "first").is_dir():
        training.run(
            rooms.training("sft", run="first", job="first", method="lora", max_steps=1, warmup_steps=0), Recorder()
        )
    spec = rooms.training(
        objective, run=f"whole {objective}", job=f"whole {objective}", max_steps=1, learning_rate=1e-2, warmup_steps=0
    )
    spec = with_payload(spec, base="first/checkpoints/step-000001")
    trained = load_file(rooms.root / training.run(spec, Recorder()).checkpoint / "model.safetensors")
    before = load_network(rooms.root / spec.payload.base).state_dict()
    body = [name for name in trained if name.startswith("model.")]
    assert body
    assert all(not torch.equal(trained[name], before[name]) for name in body)
