"""What the memory and the speed of a training process depend on, and nothing else. Knows no arithmetic, no tensors."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.architectures.flops import count_flops
from backend.domain.architectures.parameters import count_parameters
from backend.domain.training.config import Objective, RunConfig
from backend.domain.training.execution import compiles, sequences_at_once

Precision = Literal["fp32", "bf16", "fp16"]
DeviceKind = Literal["cpu", "gpu"]
Sharding = Literal["none", "ddp", "fsdp"]
Optimizer = Literal["adamw", "muon", "lion", "adafactor", "adamw_8bit"]
LATER_FIELDS = ("keeps_reference", "packed", "base_bits", "optimizer", "frozen_blocks", "average", "dropout")
"""Fields that settings measured earlier do not have: at their defaults they leave the fingerprint as it was."""


class TrainingSetting(BaseModel):
    """One training process: the network, what is trained of it, the batch, and the kind of device.

    `micro_batch` is what passes at once (`sequences_at_once`), `context` the longest sequence in tokens. `data` names the dataset's
    version where its rows decide how long sequences are (all but pretrain; a pretraining window is always full). `packed` says whether rows share sequences, which are then full or nearly.
    `base_bits` are those of a base that qlora freezes, None for one in fp32. `accumulates` says whether a step has several
    micro-batches: then gradients are there while the next one runs. `average` says whether an average of the weights is kept,
    `dropout` whether there is any. `devices` share the work by `sharding`; micro_batch is that of one device.
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
    base_bits: Literal[4, 8] | None = None
    optimizer: Optimizer = "adamw"
    frozen_blocks: int = Field(default=0, ge=0)
    average: bool = False
    dropout: bool = False
    device: DeviceKind = "cpu"
    keeps_reference: bool = False
    devices: int = Field(default=1, ge=1)
    sharding: Sharding = "none"
    data: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash that two settings share exactly if they are the same."""
        data = self.model_dump(mode="json")
        usual = {name: type(self).model_fields[name].default for name in LATER_FIELDS}
        text = json.dumps({name: value for name, value in data.items() if name not in usual or value != usual[name]}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens in one micro-batch whose sequences are full."""
        return self.micro_batch * self.context

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of training for one token."""
        return count_flops(self.architecture, context=self.context, micro_batch=self.micro_batch, lora_rank=self.lora_rank).training


def setting_of(config: RunConfig, architecture: ArchitectureConfig, *, device: DeviceKind, data: str | None = None) -> TrainingSetting:
    """Return the setting of a run whose network has this shape; `data` is the dataset version's id."""
    automatic: Precision = "bf16" if device == "gpu" else "fp32"
    compiled = compiles(config, parameters=sum(count_parameters(architecture).values()), device=device)
    packed = config.packing and config.objective is Objective.SFT and FAMILIES[architecture.family].packs
    at_once = sequences_at_once(
        config, device=device, is_full=packed or config.objective is Objective.PRETRAIN, has_experts=architecture.num_experts is not None
    )
    return TrainingSetting(
        architecture=architecture,
        objective=config.objective,
        lora_rank=config.lora.rank if config.method != "full" else None,
        precision=automatic if config.precision == "auto" else config.precision,
        micro_batch=at_once,
        context=config.context,
        accumulates=config.micro_batch * config.grad_accum_steps > at_once,
        recompute=config.recompute,
        compiled=compiled,
        base_bits=config.lora.bits if config.method == "qlora" else None,
        packed=packed,
        optimizer=config.optimizer,
        frozen_blocks=config.freeze_blocks,
        average=config.ema_decay > 0,
        dropout=config.dropout > 0,
        device=device,
        keeps_reference=config.objective is Objective.GRPO and config.grpo.kl_weight > 0 and config.method == "full",
        devices=config.devices.count,
        sharding="none" if config.devices.count == 1 else "fsdp" if config.devices.sharding in ("fsdp", "zero3") else "ddp",
        data=None if config.objective is Objective.PRETRAIN else data,
    )
