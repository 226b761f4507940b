"""PiSSA (Meng et al. 2024, arXiv 2404.02948): adapters that start from a weight's largest singular vectors, and their
plain LoRA form.

During training the base holds the residual of each weight and the adapter its first r singular vectors. A checkpoint
holds the change since the start as plain LoRA of twice the rank on the original base: [B, B0] [A; -A0]. Any tool reads
it, the base's files stay unchanged, and both halves allow an exact resume.
"""

from __future__ import annotations

import json
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from backend.errors import InvalidInput

ADAPTER, START = "default", "pissa_start"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
EXACT_UP_TO = 1024
"""Side of a matrix above which the largest singular vectors alone are computed, by random projections (section 4)."""


def begin(model: peft.PeftModel, *, saved: Path | None = None) -> None:
    """Initialise fresh adapters from the base's singular vectors and subtract them from it, or restore both from the
    checkpoint `saved`.

    Raises InvalidInput if the rank is larger than a matrix.
    """
    tensors = load_file(saved / WEIGHTS) if saved is not None else {}
    # the head of a reward model
    if beside := {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}:
        peft.set_peft_model_state_dict(model, beside)
    with torch.no_grad():
        for name, layer in _layers(model):
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            later = None
            if tensors:
                both_down, both_up = tensors[f"{name}.lora_A.weight"].to(down), tensors[f"{name}.lora_B.weight"].to(up)
                (down_now, down_start), (up_now, up_start) = both_down.chunk(2, dim=0), both_up.chunk(2, dim=1)
                start, later = (-down_start, up_start), (down_now, up_now)
            else:
                start = _largest(layer, rank=down.shape[0], name=name)
            down.copy_(start[0])
            up.copy_(start[1])
            weight = layer.get_base_layer().weight
            weight -= layer.get_delta_weight(ADAPTER).to(weight)
            setattr(layer, START, (down.clone(), up.clone()))
            if later is not None:
                down.copy_(later[0])
                up.copy_(later[1])


def save_as_lora(model: peft.PeftModel, folder: Path) -> None:
    """Rewrite adapters that PEFT saved to a folder as plain LoRA on the original base; a no-op for other variants."""
    starts = {name: getattr(layer, START) for name, layer in _layers(model) if hasattr(layer, START)}
    if not starts:
        return
    tensors = load_file(folder / WEIGHTS)
    for name, (down, up) in starts.items():
        lower, upper = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        tensors[lower] = torch.cat([tensors[lower], -down.cpu()], dim=0).contiguous()
        tensors[upper] = torch.cat([tensors[upper], up.cpu()], dim=1).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text())
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _layers(model: peft.PeftModel) -> list[tuple[str, LoraLayer]]:
    """Return the layers with adapters, by their names in files."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]


def _largest(layer: LoraLayer, *, rank: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (rank, inputs) and B (outputs, rank): B @ A times the scaling is the weight's best of that rank."""
    weight = layer.get_base_layer().weight.float()
    weight = weight.T if getattr(layer, "fan_in_fan_out", False) else weight
    if rank > min(weight.shape):
        raise InvalidInput(
            f"lora.rank {rank} is more than the {min(weight.shape)} singular vectors of"
            f" {name.removeprefix('base_model.model.')}.",
            remedy=f"Choose a rank of at most {min(weight.shape)}, or another lora.variant.",
            field="lora.rank",
        )
    if min(weight.shape) <= EXACT_UP_TO:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        left, values, turned = torch.svd_lowrank(weight, q=min(rank + 8, min(weight.shape)), niter=8)
        right = turned.T
    roots = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots
