"""Schema of a compute plan: the budget, and the network, steps and expected loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.throughput import Speed
from backend.domain.fields import setting
from backend.domain.scaling.laws import BELIEVABLE, DEFAULT_LAW, FLOPS_PER_PARAMETER_TOKEN, Allocation, ScalingLaw
from backend.domain.statistics.estimates import Estimate
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import Objective
from backend.domain.validation import read_values

DEFAULT_VOCABULARY = 32_000


FINAL_LEARNING_RATE = 1e-5  # the final learning rate that the rule was fitted with


class PlanConfig(BaseModel):
    """Config of a plan: one budget, dataset, tokenizer and law.

    `law` is a key of `laws.PUBLISHED`, or `own` for the fit to own runs with the same dataset, tokenizer and context.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    flops: float | None = setting(
        None,
        "Training FLOPs",
        "Budget in floating-point operations, such as 1e18: about 6 for each parameter and token.",
        gt=0,
        le=1e40,
    )
    device_hours: float | None = setting(
        None, "Device-hours", "Budget in hours of one device.", gt=0, le=1e12, option="--device-hours --gpu-hours"
    )
    money_usd: float | None = setting(None, "US dollars", "Budget in US dollars.", gt=0, le=1e15, option="--money")
    price_usd: float | None = setting(
        None,
        "Price of a device-hour",
        "US dollars for a device-hour; that of the Costs page or ROUNDHOUSE_DEVICE_HOUR_PRICE when left out.",
        gt=0,
        le=1e9,
        option="--price",
        empty="Not set",
    )
    device: str | None = setting(
        None, "Device", "The device whose measured speed is used; by default the newest.", max_length=200
    )
    flops_per_s: float | None = setting(
        None,
        "Device speed",
        "For a device you don't have: achieved in training, commonly 30 to 50 % of the data sheet.",
        gt=0,
        le=1e30,
        unit="FLOP/s",
    )
    law: str = setting(
        DEFAULT_LAW,
        "Scaling law",
        "A law of `roundhouse plan laws`, fitted on other data, or own: that of your runs with this dataset and"
        " tokenizer.",
        max_length=60,
    )
    tokens_per_parameter: float | None = setting(
        None,
        "Tokens per parameter",
        "Instead of the law's optimum, about 20. More give a smaller model that is cheaper to serve.",
        ge=0.01,
        le=1e6,
        empty="The law's optimum",
    )
    family: str = setting(
        "llama", "Family", "Family of the model, a dense one: the laws cover no mixtures of experts.", max_length=40
    )
    dataset: str | None = setting(None, "Dataset", "Sets the number of epochs. Required to launch.", max_length=140)
    tokenizer: str | None = setting(None, "Tokenizer", "Sets the vocabulary. Required to launch.", max_length=140)
    vocab_size: int | None = setting(None, "Vocabulary", "Vocabulary, where no tokenizer is named.", ge=2, le=1_000_000)
    context: int = setting(256, "Context", "Tokens per training sequence.", ge=8, le=1_048_576, unit="tokens")

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        budgets = [name for name in ("flops", "device_hours", "money_usd") if getattr(self, name) is not None]
        if len(budgets) != 1:
            problem = f"{' and '.join(budgets)} are given" if budgets else "none is given"
            raise ValueError(f"a plan needs one budget, flops, device_hours or money_usd; {problem}")
        return self


@dataclass(frozen=True)
class BatchPlan:
    """Batch size, steps and learning-rate schedule."""

    tokens: int
    micro_batch: int
    grad_accum_steps: int
    learning_rate: float
    warmup_steps: int
    source: str


@dataclass(frozen=True)
class ScalingPlan:
    """A plan. `optimum` is the law's exact allocation; everything below it describes the network that can be built.

    `loss` is the expected loss of the network, with repeated data. `unique_tokens` are estimated unless
    `tokens_counted`. `seconds` and `cost_usd` are None without a rate or
    a price. `notes` are the plan's limits and reliability.
    """

    config: PlanConfig
    law: ScalingLaw
    flops: float
    optimum: Allocation
    optimal_parameters: Estimate
    architecture: ArchitectureConfig
    parameters: int
    flops_per_token: int
    tokens: int
    steps: int
    batch: BatchPlan
    loss: Estimate
    unique_tokens: int | None
    tokens_counted: bool
    epochs: float | None
    seconds: float | None
    cost_usd: float | None
    speed: Speed | None
    flops_per_s: float | None
    notes: tuple[str, ...]

    @property
    def law_flops(self) -> float:
        """FLOPs of the plan as the law counts them, 6 N D."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens

    @property
    def loss_is_believable(self) -> bool:
        """Return whether the expected loss is well below chance level; a law extrapolated too far exceeds it."""
        return self.loss.value < BELIEVABLE * math.log(self.architecture.vocab_size)

    def run_config(self) -> RunConfig | None:
        """Return the run to launch, or None where the plan names no dataset and tokenizer."""
        if self.config.dataset is None or self.config.tokenizer is None:
            return None
        return RunConfig(
            objective=Objective.PRETRAIN,
            dataset=self.config.dataset,
            tokenizer=self.config.tokenizer,
            architecture=self.architecture,
            context=self.config.context,
            max_steps=self.steps,
            micro_batch=self.batch.micro_batch,
            grad_accum_steps=self.batch.grad_accum_steps,
            learning_rate=self.batch.learning_rate,
            min_learning_rate=min(FINAL_LEARNING_RATE, self.batch.learning_rate),
            warmup_steps=self.batch.warmup_steps,
            eval_every=max(1, self.steps // 20),
            checkpoint_every=max(1, self.steps // 4),
        )


def parse_plan(values: dict[str, object]) -> PlanConfig:
    """Return a config from a form's or a command's values. Raises InvalidInput naming field, value and bound."""
    return read_values(PlanConfig, values, intro="This can't be planned: ")
