"""What a run is asked to do: the one schema behind the launch form, the YAML recipe, the API body and the stored row."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.architecture import ArchitectureConfig
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

MAX_SEED = 2**32 - 1  # what every generator of random numbers takes


class Objective(StrEnum):
    """What a run optimises."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    DPO = "dpo"


class LoraConfig(BaseModel):
    """Low-rank adapters on every linear layer (Hu et al. 2021, arXiv 2106.09685)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run, and where it runs.

    Names refer to rows: `dataset` is `name` or `name@version`; `architecture` is a stored name or the config itself;
    `tokenizer` and `base` are names. Batch arithmetic: tokens_per_step = micro_batch * grad_accum_steps * context.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(default="", max_length=120, description="What the run is called; made up from the recipe when empty.")
    objective: Objective = Objective.PRETRAIN
    dataset: str = Field(min_length=1, description="Dataset name, or name@version.")
    architecture: str | ArchitectureConfig | None = Field(default=None, description="For pretrain: a stored architecture or its config.")
    tokenizer: str | None = Field(default=None, description="For pretrain: the tokenizer's name.")
    base: str | None = Field(default=None, description="For sft and dpo: the checkpoint to start from.")
    method: Literal["full", "lora"] = Field(default="full", description="Train all weights, or low-rank adapters on the base.")
    lora: LoraConfig = LoraConfig()

    max_steps: int = Field(default=300, ge=1, le=100_000_000, description="Optimizer updates.")
    micro_batch: int = Field(default=16, ge=1, le=65_536, description="Sequences in one forward pass.")
    grad_accum_steps: int = Field(default=1, ge=1, le=65_536)
    context: int = Field(default=128, ge=8, le=1_048_576, description="Tokens per training sequence.")
    learning_rate: float = Field(default=3e-3, gt=0, lt=10)
    min_learning_rate: float = Field(default=0.0, ge=0, description="Where the schedule ends.")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(default=20, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    grad_clip: float = Field(default=1.0, ge=0, description="Largest gradient norm; 0 leaves gradients alone.")
    dpo_beta: float = Field(default=0.1, gt=0, description="DPO: strength of the pull to the reference.")
    seed: int = Field(default=1, ge=0, le=MAX_SEED)

    eval_every: int = Field(default=50, ge=1, description="Steps between measurements of val_loss.")
    eval_batches: int = Field(default=8, ge=1, description="Micro-batches per measurement of val_loss.")
    checkpoint_every: int = Field(default=100, ge=1)
    keep_last: int = Field(default=2, ge=1, description="Checkpoints kept besides the best and the last.")
    sample_prompts: tuple[str, ...] = Field(default=("Once upon a time",), max_length=8)
    sample_tokens: int = Field(default=48, ge=1, le=1024)

    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto: bf16 autocast on a GPU, fp32 on the CPU.")
    recompute: bool = Field(default=False, description="Compute a block's activations again when they are needed: less memory, more time.")
    compile: Literal["off", "auto", "on"] = Field(default="off", description="torch.compile; auto and on fall back to eager and say so.")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    queue: Literal["train"] = "train"
    priority: int = Field(default=5, ge=0, le=9, description="0 runs first.")

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        problems: list[str] = []
        if self.objective is Objective.PRETRAIN:
            if self.architecture is None:
                problems.append("pretrain needs an architecture")
            if not self.tokenizer:
                problems.append("pretrain needs a tokenizer")
            if self.method == "lora":
                problems.append("pretrain trains all weights: method lora needs a base, so choose sft or dpo")
        elif not self.base:
            problems.append(f"{self.objective} needs a base")
        if self.warmup_steps > self.max_steps:
            problems.append(f"warmup_steps {self.warmup_steps} is longer than the run of max_steps {self.max_steps}")
        if self.min_learning_rate > self.learning_rate:
            problems.append(f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}")
        if isinstance(self.architecture, ArchitectureConfig) and self.context > self.architecture.context:
            problems.append(f"context {self.context} is longer than the architecture's {self.architecture.context}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer update sees."""
        return self.micro_batch * self.grad_accum_steps * self.context

    def to_yaml(self) -> str:
        """Write the config as the YAML that `roundhouse run launch` reads, leaving defaults out."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        if isinstance(self.architecture, ArchitectureConfig):  # whole: what is left out depends on the family
            data["architecture"] = self.architecture.model_dump(mode="json", exclude_none=True)
        first = {"objective": self.objective.value}
        return yaml.safe_dump({**first, **data}, sort_keys=False, allow_unicode=True)


def validation_message(error: ValidationError) -> str:
    """Put pydantic's findings into one sentence a user can act on: field, value, bound."""
    parts = []
    for item in error.errors():
        place = ".".join(str(p) for p in item["loc"])
        text = str(item["msg"]).removeprefix("Value error, ")
        given = item.get("input")
        shown = f" (got {_cut(repr(given))})" if place and not isinstance(given, dict) else ""
        parts.append(f"{place}: {text}{shown}" if place else text)
    return "; ".join(parts)


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def parse_run_config(text: str) -> RunConfig:
    """Read a YAML recipe.

    Raises InvalidInput with the line or the field at fault.
    """
    data = parse_yaml(text, what="The recipe")
    if not isinstance(data, dict):
        raise InvalidInput("The recipe must be a mapping of fields to values, such as `objective: pretrain`.")
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(f"The recipe can't run: {validation_message(error)}.") from error
