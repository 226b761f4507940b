"""Low-rank adapters in PEFT's variants, and the frozen base below them: quantised (QLoRA) or held in 16 bits.

Mixed precision computes in 16 bits, and a base held in them has half the memory of float32. Autocast rounds what a
matrix product reads to 16 bits, so a matrix that is held rounded gives the same product to the last bit. An embedding
is rounded as well, and its rows are read as float32, so that what follows stays in float32: the same numbers for a base
whose file has no more bits. Norms and biases stay in float32, as do the adapters, and the experts of a mixture, which
compute in float32.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from backend.domain.training.adapters import check_adapters, holds_16_bits
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from jobs.modeling import pissa
from jobs.modeling.checkpoints import check_folder, is_adapter
from jobs.modeling.devices import is_out_of_memory
from jobs.modeling.unusable import UNUSABLE, one_line
from jobs.training.context import TrainingContext


def lora_config(config: RunConfig) -> peft.LoraConfig:
    """Configure adapters on every linear layer but the output head; PEFT adds routers and experts."""
    return peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        use_rslora=config.lora.variant == "rslora",
        use_dora=config.lora.variant == "dora",
        target_modules="all-linear",
        task_type="CAUSAL_LM" if config.objective.facts.writes else "SEQ_CLS",
    )


def add_adapters(network: PreTrainedModel, config: RunConfig, *, resume_from: Path | None) -> peft.PeftModel:
    """Add adapters to a base: fresh ones drawn from the seed, or those of a checkpoint.

    Raises InvalidInput for a variant that the base does not support.
    """
    check_adapters(config, str(network.config.model_type))
    if resume_from is not None and config.lora.variant != "pissa":
        return peft.PeftModel.from_pretrained(network, str(resume_from), is_trainable=True, local_files_only=True)
    torch.manual_seed(config.seed)
    model = peft.get_peft_model(network, lora_config(config))
    assert isinstance(model, peft.PeftModel)
    if config.lora.variant == "pissa":
        pissa.begin(model, saved=resume_from)
    return model


def load_quantised(folder: Path, *, bits: int, device: torch.device, autocast: torch.dtype | None) -> PreTrainedModel:
    """Load a frozen base in 4 bits (NormalFloat with double quantisation: Dettmers et al. 2023, arXiv 2305.14314) or 8.

    Raises InvalidInput without a CUDA device or bitsandbytes, and for a base that is itself an adapter.
    """
    check_quantising(device)
    check_folder(folder)
    if is_adapter(folder):
        raise InvalidInput(
            "qlora needs a base with all its weights, and this one is an adapter.",
            remedy="Export it merged, and add the result as a base.",
            field="base",
        )
    if bits == 4:
        nf4: dict[str, object] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=autocast or torch.float32, **nf4)
    else:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    try:
        network = AutoModelForCausalLM.from_pretrained(
            str(folder),
            quantization_config=quantization,
            device_map={"": device},
            dtype=autocast or torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise InvalidInput(f"The base can't be loaded at {bits} bits: {one_line(error)}", field="lora.bits") from error
    prepared: PreTrainedModel = peft.prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    return prepared


def check_quantising(device: torch.device) -> None:
    """Raise InvalidInput unless a base can be quantised on this device."""
    if device.type != "cuda":
        raise InvalidInput(
            f"qlora quantises the base, which needs an NVIDIA GPU, and this run is on the {device.type.upper()}.",
            remedy="Choose method lora, or a worker with a GPU.",
            field="method",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidInput(
            "qlora needs the library bitsandbytes, which this worker does not have.",
            remedy="Install it there (pip install 'roundhouse[quantized]'), or choose method lora.",
            field="method",
        )


class HeldLinear(nn.Linear):
    """A linear layer whose matrix may have fewer bits than what it reads, also outside autocast."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute in autocast's type, else in that of the input."""
        if torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        return F.linear(input, self.weight.to(input.dtype), self.bias)


class HeldConv1D(Conv1D):  # type: ignore[misc]
    """The same of GPT-2's transposed layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute in autocast's type, else in that of the input."""
        if torch.is_autocast_enabled(x.device.type):
            computed: torch.Tensor = super().forward(x)
            return computed
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight.to(x.dtype)).view(*x.shape[:-1], self.nf)


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: HeldLinear, Conv1D: HeldConv1D}


def held_type(ctx: TrainingContext) -> torch.dtype | None:
    """Return the 16-bit type in which a run holds its frozen base, or None."""
    return ctx.autocast if holds_16_bits(ctx.config) else None


def hold_frozen(model: nn.Module, held: torch.dtype | None) -> None:
    """Round a network's frozen matrices in place, also those without weights yet; None leaves them as they are."""
    if held is None:
        return
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        is_embedding = isinstance(module, nn.Embedding)
        if not (is_embedding or type(module) in _LAYERS) or weight.requires_grad or not weight.is_floating_point():
            continue
        if is_embedding:
            module.register_forward_hook(_widen)
        else:
            module.__class__ = _LAYERS[type(module)]
        weight.data = weight.data.to(held)


def _widen(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    return output.float()
