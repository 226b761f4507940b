"""What a run is asked to do: the one schema behind the launch form, the YAML recipe, the API body and the stored row."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config_sections import DeviceConfig, GrpoConfig, LoraConfig, PreferenceConfig, Tracker
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

__all__ = [
    "DATASET_KINDS",
    "MAX_SEED",
    "PAIRWISE",
    "DeviceConfig",
    "GrpoConfig",
    "LoraConfig",
    "Objective",
    "PreferenceConfig",
    "RunConfig",
    "parse_run_config",
    "validation_message",
]

MAX_SEED = 2**32 - 1  # what every generator of random numbers takes


class Objective(StrEnum):
    """What a run optimises."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"
    ORPO = "orpo"
    SIMPO = "simpo"
    REWARD = "reward"
    GRPO = "grpo"


PAIRWISE = frozenset({Objective.DPO, Objective.ORPO, Objective.SIMPO, Objective.REWARD})
"""Objectives that learn from a chosen and a rejected answer."""

DATASET_KINDS: dict[Objective, tuple[str, ...]] = {
    Objective.PRETRAIN: ("text",),
    Objective.SFT: ("instruction", "chat"),
    Objective.DPO: ("preference",),
    Objective.KTO: ("kto", "preference"),
    Objective.ORPO: ("preference",),
    Objective.SIMPO: ("preference",),
    Objective.REWARD: ("preference",),
    Objective.GRPO: ("instruction", "prompts", "benchmark"),
}
"""The kinds of dataset that each objective trains on."""


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run, and where it runs.

    Names refer to rows: `dataset` is `name` or `name@version`; `architecture` is a stored name or the config itself;
    `tokenizer` and `base` are names. Batch arithmetic: tokens_per_step = micro_batch * grad_accum_steps * devices.count * context.
    With packing (sft) a sequence holds as many rows as fit its context, so a step trains on as many tokens but more rows than without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(default="", max_length=120, description="What the run is called; made up from the recipe when empty.")
    objective: Objective = Objective.PRETRAIN
    dataset: str = Field(min_length=1, description="Dataset name, or name@version.")
    architecture: str | ArchitectureConfig | None = Field(default=None, description="For pretrain: a stored architecture or its config.")
    tokenizer: str | None = Field(default=None, description="For pretrain: the tokenizer's name.")
    base: str | None = Field(
        default=None, description="The checkpoint to start from. With pretrain: training goes on, in place of an architecture."
    )
    method: Literal["full", "lora", "qlora"] = Field(
        default="full", description="Train all weights, or low-rank adapters on the base (qlora: on a base of 4 or 8 bits)."
    )
    lora: LoraConfig = LoraConfig()
    freeze_blocks: int = Field(default=0, ge=0, description="Blocks, counted from the input, that stay as they are, embeddings with them.")
    packing: bool = Field(
        default=True,
        description="sft: rows fill sequences of `context` tokens together, and none reads another. Off: one row a sequence, padded.",
    )
    preference: PreferenceConfig = PreferenceConfig()
    grpo: GrpoConfig = GrpoConfig()

    max_steps: int = Field(default=300, ge=1, le=100_000_000, description="Optimizer updates.")
    micro_batch: int = Field(
        default=16, ge=1, le=65_536, description="Sequences in one forward pass. A CPU may take fewer at once; the loss is the same."
    )
    grad_accum_steps: int = Field(default=1, ge=1, le=65_536)
    context: int = Field(default=128, ge=8, le=1_048_576, description="Tokens per training sequence.")
    learning_rate: float = Field(default=3e-3, gt=0, lt=10)
    min_learning_rate: float = Field(default=0.0, ge=0, description="Where the schedule ends.")
    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    warmup_steps: int = Field(default=20, ge=0)
    decay_steps: int = Field(default=0, ge=0, description="wsd: steps of the final decay; 0: a fifth of the run.")
    optimizer: Literal["adamw", "muon", "lion", "adafactor", "adamw_8bit"] = "adamw"
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    grad_clip: float = Field(default=1.0, ge=0, description="Largest gradient norm; 0 leaves gradients alone.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="pretrain and sft: share of each target spread over the vocabulary."
    )
    z_loss: float = Field(default=0.0, ge=0, description="pretrain and sft: weight of the squared log-partition, which keeps logits small.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of activations dropped while training.")
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of an exponential moving average of the weights, which is what is then saved; 0: none."
    )
    max_epochs: float = Field(default=0, ge=0, description="Stop after so many passes over the data, if max_steps allows; 0: no limit.")
    seed: int = Field(default=1, ge=0, le=MAX_SEED)

    eval_every: int = Field(default=50, ge=1, description="Steps between measurements of val_loss.")
    eval_batches: int = Field(default=8, ge=1, description="Micro-batches per measurement of val_loss.")
    checkpoint_every: int = Field(default=100, ge=1)
    keep_last: int = Field(default=2, ge=1, description="Checkpoints kept besides the best and the last.")
    patience: int = Field(default=0, ge=0, description="Stop after so many measurements without a better val_loss; 0: never.")
    sample_prompts: tuple[str, ...] = Field(default=("Once upon a time",), max_length=8)
    sample_tokens: int = Field(default=48, ge=1, le=1024)

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 on a GPU that has it, else fp16; fp32 on the CPU. fp32 on a GPU uses tf32."
    )
    attention: Literal["auto", "sdpa", "eager", "flex", "flash"] = Field(
        default="auto",
        description="How attention is computed: sdpa picks the fastest kernel there is. Packed rows are attended one by one, by sdpa.",
    )
    recompute: bool = Field(default=False, description="Compute a block's activations again when they are needed: less memory, more time.")
    compile: Literal["off", "auto", "on"] = Field(
        default="auto",
        description="torch.compile. auto: where a pretraining run is long enough for it to pay; eager where it fails, said in the log.",
    )
    device: Literal["auto", "cpu", "gpu"] = "auto"
    devices: DeviceConfig = DeviceConfig()
    trackers: tuple[Tracker, ...] = Field(default=(), description="Where the run's numbers are written besides here, on this machine.")
    queue: Literal["train"] = "train"
    priority: int = Field(default=5, ge=0, le=9, description="0 runs first.")

    @model_validator(mode="before")
    @classmethod
    def _read_old(cls, data: Any) -> Any:
        """Runs launched before the section `preference` existed have `dpo_beta`."""
        if isinstance(data, dict) and "dpo_beta" in data:
            data = dict(data)
            beta, preference = data.pop("dpo_beta"), data.get("preference") or {}
            if isinstance(preference, dict):  # else it is said below what is wrong with it
                data["preference"] = {"beta": beta, **preference}
        return data

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        problems: list[str] = []
        if self.objective is Objective.PRETRAIN:
            if self.base is None:
                problems += ["pretrain needs an architecture (or a base to go on from)"] if self.architecture is None else []
                problems += ["pretrain needs a tokenizer"] if not self.tokenizer else []
                problems += [f"method {self.method} needs a base to put adapters on"] if self.method != "full" else []
            elif self.architecture is not None or self.tokenizer:
                problems.append("pretrain takes a base or an architecture with its tokenizer, not both")
        elif not self.base:
            problems.append(f"{self.objective} needs a base")
        if self.objective is Objective.GRPO and not self.grpo.rewards:
            problems.append("grpo needs at least one reward under grpo.rewards")
        if self.objective is Objective.GRPO and self.micro_batch * self.grad_accum_steps % self.grpo.group_size:
            problems.append(
                f"micro_batch {self.micro_batch} times grad_accum_steps {self.grad_accum_steps} is no multiple of "
                f"grpo.group_size {self.grpo.group_size}"
            )
        if self.objective is Objective.GRPO:
            if self.grpo.max_new_tokens >= self.context:
                problems.append(
                    f"grpo.max_new_tokens {self.grpo.max_new_tokens} leaves no room for a prompt in a context of {self.context}"
                )
            if self.grpo.kl_weight and self.method != "full" and self.lora.variant == "pissa":
                problems.append("grpo.kl_weight needs the base as it was, which lora.variant pissa changes: choose another variant, or 0")
            if self.devices.count > 1:
                problems.append(f"grpo writes its completions on one device, and devices.count is {self.devices.count}")
        if self.objective is Objective.KTO and self.micro_batch < 2:
            problems.append("kto compares answers of a micro-batch, so micro_batch 1 is too small: choose 2 or more")
        if self.method == "qlora" and self.lora.variant == "pissa":
            problems.append("lora.variant pissa changes the base, which method qlora stores in few bits: choose another variant")
        if self.method == "qlora" and self.objective is Objective.REWARD:
            problems.append("method qlora can't train reward: choose lora")
        if self.freeze_blocks and self.method != "full":
            problems.append(f"freeze_blocks {self.freeze_blocks} has no meaning with method {self.method}, which freezes the whole base")
        if self.schedule == "wsd" and self.decay_steps > self.max_steps - self.warmup_steps:
            problems.append(
                f"decay_steps {self.decay_steps} does not fit between warmup_steps {self.warmup_steps} and max_steps {self.max_steps}"
            )
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
        return self.micro_batch * self.grad_accum_steps * self.devices.count * self.context

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
    if isinstance(data, dict):
        data.pop("recipe", None)  # what a recipe's file says about itself
    if not isinstance(data, dict):
        raise InvalidInput("The recipe must be a mapping of fields to values, such as `objective: pretrain`.")
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(f"The recipe can't run: {validation_message(error)}.") from error
