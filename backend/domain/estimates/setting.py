"""TrainingSetting: everything that the peak memory and the speed of a training process depend on. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_flops, count_parameters
from backend.domain.architectures.families import FAMILIES
from backend.domain.training.adapters import holds_16_bits
from backend.domain.training.config import RunConfig
from backend.domain.training.config_sections import DeviceConfig, LoraConfig
from backend.domain.training.execution import compiles, sequences_at_once, uses_deepspeed
from backend.domain.training.objectives import Objective

Precision = Literal["fp32", "bf16", "fp16"]
DeviceKind = Literal["cpu", "gpu"]
Sharding = Literal["none", "ddp", "fsdp", "zero2", "zero3"]
Optimizer = Literal["adamw", "muon", "lion", "adafactor", "adamw_8bit"]


HALF_BITS: Literal[16] = 16


class TrainingSetting(BaseModel):
    """One training process: the network, the weights that are trained, the batch, and the kind of device.

    `micro_batch` is the size of a forward pass (`sequences_at_once`), `context` the longest sequence in tokens. `data`
    is the id of the dataset version if its rows determine the lengths of sequences (all but pretrain, whose windows are
    always full). `packed`: rows share sequences, which are then nearly full. `base_bits` are those of a base that
    adapters freeze, None for fp32. `accumulates`: a step has several micro-batches, so gradients stay allocated while
    the next one runs. `average`: an EMA of the weights is kept. `devices` share the work by `sharding`, `offload`: the
    CPU does DeepSpeed's update; micro_batch is that of one device. `group_size` and `completion_tokens` are those of
    grpo. The default of a field added later is the value of earlier measurements.
    """

    model_config = ConfigDict(frozen=True)

    architecture: ArchitectureConfig
    objective: Objective = Objective.PRETRAIN
    lora_rank: int | None = Field(default=None, ge=1)
    precision: Precision = "fp32"
    micro_batch: int = Field(default=1, ge=1)
    context: int = Field(default=256, ge=1)
    accumulates: bool = False
    recompute: bool = False
    compiled: bool = False
    packed: bool = False
    base_bits: Literal[4, 8, 16] | None = None
    optimizer: Optimizer = "adamw"
    frozen_blocks: int = Field(default=0, ge=0)
    average: bool = False
    dropout: bool = False
    device: DeviceKind = "cpu"
    keeps_reference: bool = False
    attention: str = "auto"
    adapter_variant: str = "lora"
    adapter_dropout: bool = False
    group_size: int | None = None
    completion_tokens: int | None = None
    nodes: int = Field(default=1, ge=1)
    devices: int = Field(default=1, ge=1)
    sharding: Sharding = "none"
    offload: bool = False
    data: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of the setting; fields at their defaults do not enter it."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True).encode()
        ).hexdigest()

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of training for one token."""
        return count_flops(
            self.architecture, context=self.context, micro_batch=self.micro_batch, lora_rank=self.lora_rank
        ).training


def pretraining_setting(
    architecture: ArchitectureConfig,
    *,
    micro_batch: int,
    context: int,
    device: DeviceKind = "cpu",
    precision: Precision = "fp32",
    lora_rank: int | None = None,
    recompute: bool = False,
    devices: int = 1,
    sharding: Literal["ddp", "fsdp"] = "ddp",
) -> TrainingSetting:
    """Return the setting of a run that pretrains this network, uncompiled: the one that its launch is estimated by.

    `micro_batch` is the config's, in sequences: on a CPU a forward pass may take fewer. With `lora_rank` it trains
    adapters.
    """
    config = RunConfig.model_construct(  # not validated, as it names no dataset
        dataset="",
        method="lora" if lora_rank else "full",
        lora=LoraConfig(rank=lora_rank) if lora_rank else LoraConfig(),
        micro_batch=micro_batch,
        context=context,
        precision=precision,
        recompute=recompute,
        devices=DeviceConfig(count=devices, sharding=sharding),
        compile="off",
    )
    return setting_of(config, architecture, device=device)


def setting_of(
    config: RunConfig, architecture: ArchitectureConfig, *, device: DeviceKind, data: str | None = None
) -> TrainingSetting:
    """Return the setting of a run whose network has this shape; `data` is the dataset version's id."""
    automatic: Precision = "bf16" if device == "gpu" else "fp32"
    compiled = compiles(config, parameters=sum(count_parameters(architecture).values()), device=device)
    packed = config.packing and config.objective.packs and FAMILIES[architecture.family].packs
    at_once = sequences_at_once(
        config,
        device=device,
        is_full=packed or config.objective.pretrains,
        has_experts=architecture.num_experts is not None,
    )
    precision = automatic if config.precision == "auto" else config.precision
    adapters, grpo = config.method != "full", config.objective.samples
    in_16_bits = precision != "fp32" and holds_16_bits(config)
    return TrainingSetting(
        architecture=architecture,
        objective=config.objective,
        lora_rank=config.lora.rank if adapters else None,
        precision=precision,
        micro_batch=at_once,
        context=config.context,
        accumulates=config.micro_batch * config.grad_accum_steps > at_once,
        recompute=config.recompute,
        compiled=compiled,
        base_bits=config.lora.bits if config.method == "qlora" else HALF_BITS if in_16_bits else None,
        packed=packed,
        optimizer=config.optimizer,
        frozen_blocks=config.freeze_blocks,
        average=config.ema_decay > 0,
        dropout=config.dropout > 0,
        device=device,
        keeps_reference=grpo and config.grpo.kl_weight > 0 and not adapters,
        attention=config.attention,
        adapter_variant=config.lora.variant if adapters else "lora",
        adapter_dropout=adapters and config.lora.dropout > 0,
        group_size=config.grpo.group_size if grpo else None,
        completion_tokens=config.grpo.max_new_tokens if grpo else None,
        devices=config.devices.count,
        nodes=config.devices.nodes,
        sharding="none" if config.devices.count == 1 else config.devices.sharding,
        offload=uses_deepspeed(config) and config.devices.offload,
        data=None if config.objective.pretrains else data,
    )
