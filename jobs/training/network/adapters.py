"""Low-rank adapters in PEFT's variants, and the quantised base of QLoRA."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from backend.domain.training.adapters import check_adapters
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from jobs.modeling import pissa
from jobs.modeling.checkpoints import check_folder, is_adapter
from jobs.modeling.devices import is_out_of_memory
from jobs.modeling.unusable import UNUSABLE, one_line


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
