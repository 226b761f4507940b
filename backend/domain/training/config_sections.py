"""Sections of a run's config: adapters, preference losses, rewards, and how devices share the work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Literal, Self

import regex
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from backend.domain.fields import FieldCondition, above, setting, unless, when
from backend.domain.training.objectives import Objective
from backend.domain.training.traits import COST, NOTHING, RESULT, RESULT_AND_COST, Effect, FieldGroup, Traits
from backend.domain.validation import is_stored

MAX_UNROLLED = 200_000
"""Limit of a pattern's length times the product of its counted repeats: counts are unrolled, at 1 µs a character when
measured.
"""


def trains(fact: Callable[[Objective], bool]) -> FieldCondition:
    """Require an objective of which a fact holds."""
    return when("objective", *filter(fact, Objective))


def reads(preference: str) -> FieldCondition:
    """Require an objective whose loss reads a setting of preferences."""
    return trains(lambda one: preference in one.facts.settings)


ADAPTERS = when("method", "lora", "qlora")
PRETRAINING = trains(lambda one: one.pretrains)
GRPO = trains(lambda one: one.samples)


class ConfigSection(BaseModel):
    """A section of a config: frozen, no unknown fields, finite values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraConfig(ConfigSection):
    """Low-rank adapters on every linear layer (Hu et al. 2021, arXiv 2106.09685), and their variants.

    rslora scales by alpha / sqrt(rank) (arXiv 2312.03732), dora learns magnitude and direction apart (arXiv
    2402.09353), pissa starts from the weights' largest singular vectors (arXiv 2404.02948).
    """

    rank: int = setting(
        8,
        "Rank",
        "Larger adapters can learn more and need more memory.",
        ge=1,
        le=1024,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.METHOD, used=(ADAPTERS,)),
    )
    alpha: float = setting(
        16.0,
        "Alpha",
        "Scale of the adapters: alpha / rank.",
        gt=0,
        shown=Traits(affects=RESULT, group=FieldGroup.METHOD, used=(ADAPTERS,)),
    )
    dropout: float = setting(
        0.0,
        "Adapter dropout",
        "Share of the adapters' inputs dropped while training.",
        ge=0.0,
        lt=1.0,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.LOSS, used=(ADAPTERS,), measured_as=bool),
    )
    variant: Literal["lora", "rslora", "dora", "pissa"] = setting(
        "lora",
        "Adapter variant",
        "rsLoRA scales by the root of the rank, DoRA learns magnitude and direction apart, PiSSA starts from the"
        " largest singular vectors.",
        shown=Traits(
            choices={"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA"},
            affects=RESULT_AND_COST,
            group=FieldGroup.LOSS,
            used=(ADAPTERS,),
        ),
    )
    bits: Literal[4, 8] = setting(
        4,
        "Bits of the base",
        "QLoRA: bits per weight of the frozen base.",
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.METHOD, used=(when("method", "qlora"),)),
    )
    frozen_base: Literal["16-bit", "fp32"] = setting(
        "16-bit",
        "Frozen base",
        "LoRA in bf16 or fp16: hold the base's matrices in the 16 bits in which they are computed, or in float32 for"
        " twice the memory.",
        shown=Traits(
            choices={"16-bit": "16 bits", "fp32": "float32"},
            affects=RESULT_AND_COST,
            group=FieldGroup.HARDWARE,
            used=(when("method", "lora"), unless("precision", "fp32")),
            sweep="allowed",
        ),
    )


class PreferenceConfig(ConfigSection):
    """Losses on preferences.

    `beta` is the strength of dpo, kto and simpo, and the weight of orpo's odds ratio (its lambda). `loss` is dpo's:
    sigmoid (arXiv 2305.18290), hinge (arXiv 2305.10425) or ipo (arXiv 2310.12036). `gamma` is simpo's target margin
    (arXiv 2405.14734); `sft_weight` adds the chosen answers' mean negative log-likelihood to simpo (0: SimPO; more:
    CPO-SimPO) or dpo. The two weights are kto's (arXiv 2402.01306).
    """

    beta: float = setting(
        0.1,
        "Beta",
        "Strength of the pull to the reference; for ORPO the weight of the odds ratio.",
        gt=0,
        shown=Traits(
            affects=RESULT,
            group=FieldGroup.METHOD,
            used=(reads("beta"),),
        ),
    )
    loss: Literal["sigmoid", "hinge", "ipo"] = setting(
        "sigmoid",
        "DPO loss",
        "DPO: the loss of a pair's margin.",
        shown=Traits(choices={"ipo": "IPO"}, affects=RESULT, group=FieldGroup.METHOD, used=(reads("loss"),)),
    )
    label_smoothing: float = setting(
        0.0,
        "Preference label smoothing",
        "DPO with the sigmoid loss: assumed share of flipped labels.",
        ge=0,
        lt=0.5,
        shown=Traits(
            affects=RESULT, group=FieldGroup.LOSS, used=(reads("label_smoothing"), when("preference.loss", "sigmoid"))
        ),
    )
    gamma: float = setting(
        0.5,
        "Margin (gamma)",
        "SimPO: target margin of the chosen answer.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.METHOD, used=(reads("gamma"),)),
    )
    sft_weight: float = setting(
        0.0,
        "SFT loss weight",
        "Weight of the chosen answer's negative log-likelihood in the loss.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(reads("sft_weight"),)),
    )
    desirable_weight: float = setting(
        1.0,
        "Desirable weight",
        "KTO: weight of good answers.",
        gt=0,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(reads("desirable_weight"),)),
    )
    undesirable_weight: float = setting(
        1.0,
        "Undesirable weight",
        "KTO: weight of bad answers.",
        gt=0,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(reads("undesirable_weight"),)),
    )


class RewardRule(ConfigSection):
    """A verifiable reward of a completion: 1 where the rule holds, 0 elsewhere; `length` falls off with the distance.

    exact: equal to the row's answer after trimming (case is ignored); contains: the row's answer occurs in it; regex:
    `pattern` is found; length: 1 at `target` tokens, falling to 0 at none and at twice as many.
    """

    kind: Literal["exact", "contains", "regex", "length"]
    weight: float = 1.0
    pattern: str = Field(default="", max_length=500)
    target: int = Field(default=0, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.kind == "regex":
            if not self.pattern:
                raise ValueError("a regex reward needs a pattern")
            _check_pattern(self.pattern)
        if self.kind == "length" and not self.target:
            raise ValueError("a length reward needs a target, in tokens")
        return self


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for an invalid pattern, or one that compiles slowly. Repeat counts multiply as if nested."""
    counts = [re.sub(r"\D", "", inside.partition(",")[0]) for inside in re.findall(r"\{([^}]*)", pattern)]
    if math.prod(int(count) or 1 for count in counts if count) * len(pattern) > MAX_UNROLLED:
        raise ValueError(
            f"pattern {pattern!r} repeats too often: its counts in braces multiply to too much; choose smaller ones,"
            " or +"
        )
    try:
        regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {error}") from error


class GrpoConfig(ConfigSection):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): answers to one prompt are compared
    with each other.
    """

    rewards: tuple[RewardRule, ...] = setting(
        (),
        "Rewards",
        "Rules that score a completion; their weighted scores are added.",
        max_length=8,
        shown=Traits(affects=RESULT, used=(GRPO,), sweep="never"),
    )
    group_size: int = setting(
        8,
        "Completions per prompt",
        "Completions sampled for each prompt.",
        ge=2,
        le=256,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.METHOD, used=(GRPO,)),
    )
    max_new_tokens: int = setting(
        64,
        "Max new tokens",
        "Longest completion that is sampled.",
        ge=1,
        le=32_768,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.METHOD, used=(GRPO,)),
    )
    temperature: float = setting(
        1.0,
        "Temperature",
        "Sampling temperature of the completions.",
        gt=0,
        le=5,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(GRPO,)),
    )
    kl_weight: float = setting(
        0.0,
        "KL weight",
        "Weight of the KL divergence from the reference (the paper's beta); 0 needs no reference.",
        ge=0,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.LOSS, used=(GRPO,), measured_as=bool),
    )
    clip_range: float = setting(
        0.2,
        "Clip range",
        "Limit of the change of a token's probability ratio in one update.",
        gt=0,
        lt=1,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(GRPO,)),
    )

    @property
    def needs_answers(self) -> bool:
        """Return whether a reward compares completions with the row's answer."""
        return any(rule.kind in ("exact", "contains") for rule in self.rewards)


class DeviceConfig(ConfigSection):
    """Devices that share a run. micro_batch is that of one device.

    ddp: each holds the whole network (Li et al. 2020, arXiv 2006.15704). fsdp: each holds a part of weights, gradients
    and optimizer state (arXiv 2304.11277). zero2 and zero3 are DeepSpeed's: all but the weights are sharded, or all
    (arXiv 1910.02054).
    """

    count: int = setting(
        1,
        "Devices",
        "GPUs (or processes on the CPU) that train together, over all machines. The micro-batch is that of one.",
        ge=1,
        le=4096,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.HARDWARE, sweep="allowed"),
    )
    nodes: int = setting(
        1,
        "Machines",
        "Machines that the devices are spread over evenly.",
        ge=1,
        le=512,
        shown=Traits(
            affects=frozenset({Effect.STEP_TIME}),
            group=FieldGroup.HARDWARE,
            used=(above("devices.count", 1),),
            sweep="allowed",
        ),
    )
    sharding: Literal["ddp", "fsdp", "zero2", "zero3"] = setting(
        "ddp",
        "Sharding",
        "DDP: each device holds everything. FSDP and ZeRO-3 shard weights, gradients and optimizer state, ZeRO-2 all"
        " but the weights. ZeRO needs the library DeepSpeed.",
        shown=Traits(
            choices={"ddp": "DDP", "fsdp": "FSDP", "zero2": "DeepSpeed ZeRO-2", "zero3": "DeepSpeed ZeRO-3"},
            affects=COST,
            group=FieldGroup.HARDWARE,
            used=(above("devices.count", 1),),
            sweep="allowed",
        ),
    )
    offload: bool = setting(
        False,
        "Offload to the CPU",
        "ZeRO-2 and ZeRO-3: keep gradients and optimizer state in the CPU's memory, and update there. Slower.",
        shown=Traits(
            affects=COST,
            group=FieldGroup.HARDWARE,
            used=(above("devices.count", 1), when("devices.sharding", "zero2", "zero3")),
            sweep="allowed",
        ),
    )
    rendezvous: str = setting(
        "",
        "Rendezvous",
        "HOST:PORT where the machines meet in the config for Accelerate; workers find each other by themselves.",
        pattern=r"^$|^[A-Za-z0-9._-]+:\d{1,5}$",
        shown=Traits(affects=NOTHING, group=FieldGroup.HARDWARE, used=(above("devices.nodes", 1),), sweep="allowed"),
    )

    @model_validator(mode="after")
    def _check_devices(self, info: ValidationInfo) -> Self:
        if not is_stored(info) and self.count % self.nodes:
            raise ValueError(f"devices.count {self.count} can't be spread evenly over devices.nodes {self.nodes}")
        return self

    @property
    def per_node(self) -> int:
        """Devices of each machine."""
        return self.count // self.nodes


Tracker = Annotated[
    Literal["tensorboard", "mlflow", "wandb", "trackio"],
    "An experiment tracker to which a run also writes its metrics.",
]
