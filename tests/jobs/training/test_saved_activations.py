"""The estimate of saved activations against what autograd saves of real networks, for every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILY_NAMES
from backend.domain.estimates.memory import (
    ComputeTypes,
    copied_weight_bytes,
    rotary_bytes,
    saved_in_block,
    saved_outside,
)
from backend.domain.estimates.setting import TrainingSetting
from jobs.modeling.build import build_network

ROWS, LENGTH = 3, 48
SHAPES: dict[str, dict[str, Any]] = {
    "mistral": {"num_kv_heads": 2, "window": 16},
    "gemma3": {"num_kv_heads": 1, "window": 16},
    "mixtral": {"num_kv_heads": 2, "num_experts": 4, "experts_per_token": 2},
    "qwen3_moe": {"num_kv_heads": 2, "num_experts": 4, "experts_per_token": 2},
}


def setting_for(family: str, *, rank: int | None, precision: Any, dropout: bool = False) -> TrainingSetting:
    """Return a small setting of a family."""
    shape = ArchitectureConfig.model_validate(
        {
            "family": family,
            "num_layers": 3,
            "width": 64,
            "num_heads": 4,
            "context": 64,
            "vocab_size": 128,
            **SHAPES.get(family, {}),
        }
    )
    return TrainingSetting(
        architecture=shape, lora_rank=rank, precision=precision, micro_batch=ROWS, context=LENGTH, dropout=dropout
    )


def counted_bytes(setting: TrainingSetting) -> int:
    """Return the estimated bytes saved before the loss."""
    shape = setting.architecture
    types = ComputeTypes(2 if setting.precision == "bf16" else 4, setting.lora_rank, dropout=setting.dropout)
    sizes = {"rows": ROWS, "length": LENGTH}
    blocks = sum(saved_in_block(shape, layer, types).total(**sizes) for layer in range(shape.num_layers))
    copies = copied_weight_bytes(shape, types)
    return blocks + copies + saved_outside(shape, types).total(**sizes) + rotary_bytes(shape, LENGTH)


def states(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the sum of what a network gives its head."""
    base = network.get_base_model() if isinstance(network, peft.PeftModel) else network
    return base.base_model(input_ids=ids, use_cache=False).last_hidden_state.float().sum()


def kept_bytes(forward: Callable[[], torch.Tensor], network: torch.nn.Module) -> int:
    """Return the bytes of all storages that autograd saves for a backward pass, without parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(size for size, _ in saved.values())
    del loss
    return total


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize(("rank", "precision"), [(None, "fp32"), (4, "bf16")], ids=["fp32", "lora bf16"])
def test_the_estimate_of_activations_equals_what_autograd_saves(family: str, rank: int | None, precision: str) -> None:
    setting = setting_for(family, rank=rank, precision=precision)
    network: Any = build_network(setting.architecture, seed=1, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    if rank is not None:
        network = peft.get_peft_model(
            network, peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    ids = torch.randint(0, 128, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            return states(network, ids)

    assert counted_bytes(setting) == pytest.approx(kept_bytes(forward, network), rel=0.04)


@pytest.mark.parametrize(
    ("family", "precision"),
    [*((name, "fp32") for name in FAMILY_NAMES), *((name, "bf16") for name in ("llama", "gpt2", "bloom"))],
)
def test_activations_saved_by_dropout_are_counted(family: str, precision: str) -> None:
    setting = setting_for(family, rank=None, precision=precision, dropout=True)
    ids = torch.randint(0, 128, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    network: Any = build_network(
        setting.architecture, seed=1, bos_token_id=0, eos_token_id=1, pad_token_id=2, dropout=0.3
    ).train()

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            return states(network, ids)

    assert counted_bytes(setting) == pytest.approx(kept_bytes(forward, network), rel=0.04)
