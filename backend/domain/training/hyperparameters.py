"""Hyperparameters of a run: batch, optimizer, schedule, regularization, evaluation and hardware, each with its
traits.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from backend.domain.training.config_sections import ConfigSection, DeviceConfig, Tracker
from backend.domain.training.traits import (
    COST,
    NOTHING,
    RESULT,
    RESULT_AND_COST,
    RESULT_AND_LENGTH,
    FieldGroup,
    Traits,
    unless,
    when,
)

MAX_SEED = 2**32 - 1  # the largest that every random number generator takes


def count_warmup_steps(ratio: float, steps: int) -> int:
    """Return a share of the steps, rounded up.

    Example:
        >>> count_warmup_steps(0.1, 30)
        3
    """
    return math.ceil(round(ratio * steps, 6))  # 0.1 * 30 is a little more than 3


class Hyperparameters(ConfigSection):
    """The hyperparameters of a run."""

    max_steps: int = Field(
        default=300,
        ge=1,
        le=100_000_000,
        description="Optimizer updates.",
        json_schema_extra=Traits(label="Steps", affects=RESULT_AND_LENGTH, group=FieldGroup.MAIN),
    )
    learning_rate: float = Field(
        default=3e-3,
        gt=0,
        lt=10,
        description="Step size at the schedule's peak.",
        json_schema_extra=Traits(label="Learning rate", affects=RESULT, group=FieldGroup.MAIN),
    )
    micro_batch: int = Field(
        default=16,
        ge=1,
        le=65_536,
        description="Sequences in one forward pass. A CPU may take fewer at once; the loss is the same.",
        json_schema_extra=Traits(label="Micro-batch", affects=RESULT_AND_COST, group=FieldGroup.MAIN, unit="sequences"),
    )
    context: int = Field(
        default=128,
        ge=8,
        le=1_048_576,
        description="Tokens per training sequence.",
        json_schema_extra=Traits(label="Context", affects=RESULT_AND_COST, group=FieldGroup.MAIN, unit="tokens"),
    )

    optimizer: Literal["adamw", "muon", "lion", "adafactor", "adamw_8bit"] = Field(
        default="adamw",
        description=(
            "AdamW is the usual choice; Muon often learns in fewer steps, Lion and Adafactor need less memory, 8-bit"
            " needs a GPU."
        ),
        json_schema_extra=Traits(label="Optimizer", affects=RESULT_AND_COST, group=FieldGroup.OPTIMIZER),
    )
    grad_accum_steps: int = Field(
        default=1,
        ge=1,
        le=65_536,
        description="Micro-batches per optimizer update: a larger batch in the same memory.",
        json_schema_extra=Traits(
            label="Gradient accumulation",
            affects=RESULT_AND_COST,
            group=FieldGroup.OPTIMIZER,
            measured_as=lambda steps: steps > 1,
        ),
    )
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        description="Decay of the weights towards zero.",
        json_schema_extra=Traits(label="Weight decay", affects=RESULT, group=FieldGroup.OPTIMIZER),
    )
    beta1: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Decay of the running mean of the gradient.",
        json_schema_extra=Traits(
            label="Beta 1", affects=RESULT, group=FieldGroup.OPTIMIZER, used=(unless("optimizer", "adafactor"),)
        ),
    )
    beta2: float = Field(
        default=0.95,
        ge=0,
        lt=1,
        description="Decay of the running mean of the squared gradient.",
        json_schema_extra=Traits(
            label="Beta 2", affects=RESULT, group=FieldGroup.OPTIMIZER, used=(unless("optimizer", "adafactor"),)
        ),
    )
    grad_clip: float = Field(
        default=1.0,
        ge=0,
        description="Largest gradient norm; 0 switches clipping off.",
        json_schema_extra=Traits(label="Gradient clip", affects=RESULT, group=FieldGroup.OPTIMIZER),
    )
    seed: int = Field(
        default=1,
        ge=0,
        le=MAX_SEED,
        description="The same seed, config and machine give the same run.",
        json_schema_extra=Traits(label="Seed", affects=RESULT, group=FieldGroup.OPTIMIZER, is_replicate=True),
    )

    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = Field(
        default="cosine",
        description="Course of the learning rate after the warm-up.",
        json_schema_extra=Traits(label="Schedule", affects=RESULT, group=FieldGroup.SCHEDULE),
    )
    warmup_ratio: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the steps over which the learning rate rises to its peak.",
        json_schema_extra=Traits(
            label="Warm-up ratio", affects=RESULT, group=FieldGroup.MAIN, used=(when("warmup_steps", None),)
        ),
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="Steps over which the learning rate rises to its peak; overrides the ratio.",
        json_schema_extra=Traits(label="Warm-up steps", affects=RESULT, group=FieldGroup.SCHEDULE),
    )
    min_learning_rate: float = Field(
        default=0.0,
        ge=0,
        description="Learning rate at the end of the schedule.",
        json_schema_extra=Traits(
            label="Final learning rate",
            affects=RESULT,
            group=FieldGroup.SCHEDULE,
            used=(unless("schedule", "constant"),),
        ),
    )
    decay_steps: int = Field(
        default=0,
        ge=0,
        description="WSD: steps of the final decay; 0: a fifth of the run.",
        json_schema_extra=Traits(
            label="Decay steps", affects=RESULT, group=FieldGroup.SCHEDULE, used=(when("schedule", "wsd"),)
        ),
    )
    max_epochs: float = Field(
        default=0,
        ge=0,
        description="Stop after this many epochs, if the steps allow; 0: no limit.",
        json_schema_extra=Traits(label="Max epochs", affects=RESULT_AND_LENGTH, group=FieldGroup.SCHEDULE),
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="Stop after this many evaluations without a better val_loss; 0: never.",
        json_schema_extra=Traits(label="Patience", affects=RESULT, group=FieldGroup.SCHEDULE, unit="evaluations"),
    )

    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Pretraining and SFT: share of each target spread over the vocabulary.",
        json_schema_extra=Traits(
            label="Label smoothing", affects=RESULT, group=FieldGroup.LOSS, used=(when("objective", "pretrain", "sft"),)
        ),
    )
    z_loss: float = Field(
        default=0.0,
        ge=0,
        description="Pretraining and SFT: weight of the squared log-partition, which keeps logits small.",
        json_schema_extra=Traits(
            label="z-loss", affects=RESULT, group=FieldGroup.LOSS, used=(when("objective", "pretrain", "sft"),)
        ),
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of activations dropped while training.",
        json_schema_extra=Traits(label="Dropout", affects=RESULT_AND_COST, group=FieldGroup.LOSS, measured_as=bool),
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Decay of an exponential moving average of the weights, which is saved instead of the weights; 0: none."
        ),
        json_schema_extra=Traits(label="EMA decay", affects=RESULT_AND_COST, group=FieldGroup.LOSS, measured_as=bool),
    )
    freeze_blocks: int = Field(
        default=0,
        ge=0,
        description="Blocks, counted from the input, that are frozen, with the embeddings.",
        json_schema_extra=Traits(
            label="Frozen blocks", affects=RESULT_AND_COST, group=FieldGroup.LOSS, used=(when("method", "full"),)
        ),
    )
    packing: bool = Field(
        default=True,
        description=(
            "SFT: pack rows into sequences of `context` tokens without attention between rows. Off: one row per"
            " sequence, padded."
        ),
        json_schema_extra=Traits(
            label="Packing", affects=RESULT_AND_COST, group=FieldGroup.LOSS, used=(when("objective", "sft"),)
        ),
    )

    eval_every: int = Field(
        default=50,
        ge=1,
        description="Steps between evaluations of val_loss.",
        json_schema_extra=Traits(
            label="Evaluate every", affects=RESULT, group=FieldGroup.EVALUATION, unit="steps", sweep="allowed"
        ),
    )
    eval_batches: int = Field(
        default=8,
        ge=1,
        description="Micro-batches per evaluation of val_loss.",
        json_schema_extra=Traits(
            label="Batches per evaluation", affects=RESULT, group=FieldGroup.EVALUATION, sweep="allowed"
        ),
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        description="Steps between checkpoints. Each can be resumed from, evaluated and deployed.",
        json_schema_extra=Traits(
            label="Checkpoint every", affects=RESULT, group=FieldGroup.EVALUATION, unit="steps", sweep="allowed"
        ),
    )
    keep_last: int = Field(
        default=2,
        ge=1,
        description="Checkpoints kept besides the best and the last.",
        json_schema_extra=Traits(
            label="Checkpoints kept", affects=NOTHING, group=FieldGroup.EVALUATION, sweep="allowed"
        ),
    )
    sample_prompts: tuple[str, ...] = Field(
        default=("Once upon a time",),
        max_length=8,
        description="Prompts that the network completes at each evaluation.",
        json_schema_extra=Traits(
            label="Sample prompts", affects=NOTHING, used=(unless("objective", "reward"),), sweep="never"
        ),
    )
    sample_tokens: int = Field(
        default=48,
        ge=1,
        le=1024,
        description="Tokens generated for each sample prompt.",
        json_schema_extra=Traits(
            label="Sample length",
            affects=NOTHING,
            group=FieldGroup.EVALUATION,
            unit="tokens",
            used=(unless("objective", "reward"),),
            sweep="allowed",
        ),
    )

    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto",
        description="auto: a GPU where a worker has one, otherwise the CPU. gpu waits for a worker with one.",
        json_schema_extra=Traits(label="Device", affects=RESULT_AND_COST, group=FieldGroup.HARDWARE, sweep="allowed"),
    )
    devices: DeviceConfig = DeviceConfig()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="auto: bf16 on a GPU that has it, else fp16; fp32 on the CPU. fp32 on a GPU uses tf32.",
        json_schema_extra=Traits(label="Precision", affects=RESULT_AND_COST, group=FieldGroup.HARDWARE),
    )
    attention: Literal["auto", "sdpa", "eager", "flex", "flash"] = Field(
        default="auto",
        description="Attention kernel. sdpa picks the fastest available one; packed rows always use it.",
        json_schema_extra=Traits(label="Attention", affects=RESULT_AND_COST, group=FieldGroup.HARDWARE),
    )
    compile: Literal["off", "auto", "on"] = Field(
        default="auto",
        description=(
            "auto: for pretraining runs long enough that it pays off. If compilation fails, the run continues in eager"
            " mode."
        ),
        json_schema_extra=Traits(label="torch.compile", affects=RESULT_AND_COST, group=FieldGroup.HARDWARE),
    )
    recompute: bool = Field(
        default=False,
        description="Recompute each block's activations in the backward pass: less memory, more time.",
        json_schema_extra=Traits(label="Activation recompute", affects=COST, group=FieldGroup.HARDWARE),
    )
    priority: int = Field(
        default=5,
        ge=0,
        le=9,
        description="0 runs first.",
        json_schema_extra=Traits(label="Priority", affects=NOTHING, group=FieldGroup.HARDWARE, sweep="never"),
    )
    trackers: tuple[Tracker, ...] = Field(
        default=(),
        description=(
            "Experiment trackers that the run also writes its metrics to: files on this machine, nothing is sent."
        ),
        json_schema_extra=Traits(label="Trackers", affects=NOTHING, group=FieldGroup.HARDWARE, sweep="never"),
    )
    queue: Literal["train"] = Field(
        default="train", json_schema_extra=Traits(label="Queue", affects=NOTHING, sweep="never")
    )
