"""The parts of a run's config that only some runs have: adapters, preferences, rewards, and how devices share the work."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

import regex
from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_UNROLLED = 200_000
"""Characters of a pattern times what its counted repeats multiply to: counts are unrolled, which took 1 µs a character when measured."""


class Section(BaseModel):
    """A part of a config: unknown fields are errors, values are finite and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraConfig(Section):
    """Low-rank adapters on every linear layer (Hu et al. 2021, arXiv 2106.09685), and their variants.

    rslora scales by alpha / sqrt(rank) (arXiv 2312.03732), dora learns magnitude and direction apart (arXiv 2402.09353), pissa starts
    from the weights' largest singular vectors (arXiv 2404.02948). `bits` is how the frozen base of method qlora is stored.
    """

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    variant: Literal["lora", "rslora", "dora", "pissa"] = "lora"
    bits: Literal[4, 8] = Field(default=4, description="For qlora: bits per weight of the frozen base.")


class PreferenceConfig(Section):
    """How preferences become a loss.

    `beta` is the strength of dpo, kto and simpo, and the weight of orpo's odds ratio (its lambda). `loss` is dpo's: sigmoid
    (arXiv 2305.18290), hinge (arXiv 2305.10425) or ipo (arXiv 2310.12036). `gamma` is simpo's target margin (arXiv 2405.14734);
    `sft_weight` adds the chosen answers' mean negative log-likelihood to simpo (0: SimPO; more: CPO-SimPO) or dpo.
    The two weights are kto's (arXiv 2402.01306).
    """

    beta: float = Field(default=0.1, gt=0, description="Strength of the pull to the reference.")
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(default="sigmoid", description="dpo: which loss.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="dpo, sigmoid: share of labels taken to be wrong.")
    gamma: float = Field(default=0.5, ge=0, description="simpo: margin that the chosen answer should have.")
    sft_weight: float = Field(default=0.0, ge=0, description="dpo and simpo: weight of learning the chosen answer itself.")
    desirable_weight: float = Field(default=1.0, gt=0, description="kto: weight of good answers.")
    undesirable_weight: float = Field(default=1.0, gt=0, description="kto: weight of bad answers.")


class RewardRule(Section):
    """A verifiable reward of a completion: 1 where the rule holds, 0 elsewhere; `length` falls off with the distance.

    exact: equal to the row's answer after trimming (case is ignored); contains: the row's answer occurs in it; regex: `pattern` is
    found; length: 1 at `target` tokens, falling to 0 at none and at twice as many.
    """

    kind: Literal["exact", "contains", "regex", "length"]
    weight: float = 1.0
    pattern: str = Field(default="", max_length=500)
    target: int = Field(default=0, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "regex":
            if not self.pattern:
                raise ValueError("a regex reward needs a pattern")
            _check_pattern(self.pattern)
        if self.kind == "length" and not self.target:
            raise ValueError("a length reward needs a target, in tokens")
        return self


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for what is no regular expression, or takes long to become one. Counts multiply as if each held the next."""
    counts = [re.sub(r"\D", "", inside.partition(",")[0]) for inside in re.findall(r"\{([^}]*)", pattern)]
    if math.prod(int(count) or 1 for count in counts if count) * len(pattern) > MAX_UNROLLED:
        raise ValueError(f"pattern {pattern!r} repeats too often: its counts in braces multiply to too much; choose smaller ones, or +")
    try:
        regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error


class GrpoConfig(Section):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): answers to one prompt are compared with each other."""

    rewards: tuple[RewardRule, ...] = Field(default=(), max_length=8)
    group_size: int = Field(default=8, ge=2, le=256, description="Completions per prompt.")
    max_new_tokens: int = Field(default=64, ge=1, le=32_768)
    temperature: float = Field(default=1.0, gt=0, le=5)
    kl_weight: float = Field(default=0.0, ge=0, description="Pull to the reference (the paper's beta); 0 needs no reference.")
    clip_range: float = Field(default=0.2, gt=0, lt=1)

    @property
    def needs_answers(self) -> bool:
        """Whether a reward compares completions with the row's answer."""
        return any(rule.kind in ("exact", "contains") for rule in self.rewards)


class DeviceConfig(Section):
    """How many devices share a run, and how. micro_batch is that of one device.

    ddp: each holds the whole network (Li et al. 2020, arXiv 2006.15704). fsdp: each holds a part of weights, gradients and optimizer
    state (arXiv 2304.11277). zero2 and zero3 are DeepSpeed's names for sharing all but the weights, and all (arXiv 1910.02054).
    """

    count: int = Field(default=1, ge=1, le=4096, description="Devices that share the run, over all machines.")
    nodes: int = Field(default=1, ge=1, le=512, description="Machines that the devices are spread over evenly.")
    sharding: Literal["ddp", "fsdp", "zero2", "zero3"] = "ddp"
    rendezvous: str = Field(
        default="",
        pattern=r"^$|^[A-Za-z0-9._-]+:\d{1,5}$",
        description="HOST:PORT where the machines meet; by default the first's port 29400.",
    )

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.count % self.nodes:
            raise ValueError(f"count {self.count} can't be spread evenly over nodes {self.nodes}")
        return self

    @property
    def per_node(self) -> int:
        """Devices of each machine."""
        return self.count // self.nodes


Tracker = Annotated[Literal["tensorboard", "mlflow", "wandb", "trackio"], "Where a run's numbers are written besides here."]
