"""From a budget to a training run: parameters, tokens, batch, learning rate, expected loss, time and cost. Pure arithmetic.

The same `PlanConfig` is behind the page's form and `roundhouse plan`; both show the same `ScalingPlan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.architecture import ArchitectureConfig
from backend.domain.flops import count_flops
from backend.domain.run_config import Objective, RunConfig, validation_message
from backend.domain.scaling import DEFAULT_LAW, Allocation, ScalingLaw, effective_tokens
from backend.domain.scaling_rules import batch_tokens_rule, learning_rate_rule, split_batch
from backend.domain.scaling_shapes import count_all, count_without_embeddings, propose_architecture
from backend.domain.scaling_words import BELIEVABLE, plan_notes
from backend.domain.speeds import Speed, rate_at
from backend.domain.statistics import Estimate
from backend.errors import InvalidInput

DEFAULT_VOCABULARY = 32_000
MAX_STEPS = 100_000_000
SETTLING = 12  # rounds in which a budget of time, the rate of a network and its size are brought together
FINAL_LEARNING_RATE = 1e-5  # the fixed end that the learning-rate rule was fitted with


class PlanConfig(BaseModel):
    """What is to be planned: one budget, and what the network shall read.

    `law` is a key of `scaling.PUBLISHED`, or `own` for the fit to one's own runs with the same dataset, tokenizer and context.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    flops: float | None = Field(default=None, gt=0, le=1e40, description="Budget in floating-point operations of training.")
    device_hours: float | None = Field(default=None, gt=0, le=1e12, description="Budget in hours of one device at its measured rate.")
    money_usd: float | None = Field(default=None, gt=0, le=1e15, description="Budget in US dollars.")
    price_usd: float | None = Field(default=None, gt=0, le=1e9, description="US dollars for one device-hour; the setting's when left out.")
    device: str | None = Field(default=None, max_length=200, description="The measured device to plan for; the newest when left out.")
    flops_per_s: float | None = Field(default=None, gt=0, le=1e30, description="Rate of the device, instead of a measured one.")
    law: str = Field(default=DEFAULT_LAW, max_length=60, description="A published law, or own.")
    tokens_per_parameter: float | None = Field(
        default=None, ge=0.01, le=1e6, description="Fix D / N instead of taking the optimum; above it the network is cheaper to serve."
    )
    family: str = Field(default="llama", max_length=40, description="Family of the network.")
    dataset: str | None = Field(default=None, max_length=140, description="Dataset to train on; says how often it is repeated.")
    tokenizer: str | None = Field(default=None, max_length=140, description="Tokenizer; says the vocabulary.")
    vocab_size: int | None = Field(default=None, ge=2, le=1_000_000, description="Vocabulary, where no tokenizer is named.")
    context: int = Field(default=256, ge=8, le=1_048_576, description="Tokens per training sequence.")

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        given = [name for name in ("flops", "device_hours", "money_usd") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"a plan needs one budget, flops, device_hours or money_usd; {found}")
        return self


@dataclass(frozen=True)
class Batch:
    """How a step is made up, and how the learning rate runs."""

    tokens: int
    micro_batch: int
    grad_accum_steps: int
    learning_rate: float
    warmup_steps: int
    source: str


@dataclass(frozen=True)
class ScalingPlan:
    """What a budget buys. `optimum` is the law's exact answer; everything below it is the network that can be built.

    `loss` is what the law expects of the network, repeats of the data counted. `seconds` and `cost_usd` are None where no rate and no
    price is known. `notes` say in words what the budget can't do and how far the numbers can be believed.
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
    batch: Batch
    loss: Estimate
    unique_tokens: int | None
    epochs: float | None
    seconds: float | None
    cost_usd: float | None
    speed: Speed | None
    flops_per_s: float | None
    notes: tuple[str, ...]

    @property
    def loss_is_believable(self) -> bool:
        """Whether the expected loss is well below guessing among the vocabulary, which a law stretched too far down exceeds."""
        return self.loss.value < BELIEVABLE * math.log(self.architecture.vocab_size)

    def run_config(self) -> RunConfig | None:
        """Return the run to launch, or None where the plan names no dataset and tokenizer."""
        if self.config.dataset is None or self.config.tokenizer is None:
            return None
        return RunConfig(
            objective=Objective.PRETRAIN, dataset=self.config.dataset, tokenizer=self.config.tokenizer, architecture=self.architecture,
            context=self.config.context, max_steps=self.steps, micro_batch=self.batch.micro_batch,
            grad_accum_steps=self.batch.grad_accum_steps, learning_rate=self.batch.learning_rate,
            min_learning_rate=min(FINAL_LEARNING_RATE, self.batch.learning_rate), warmup_steps=self.batch.warmup_steps,
            eval_every=max(1, self.steps // 20), checkpoint_every=max(1, self.steps // 4),
        )  # fmt: skip


def parse_plan(values: dict[str, object]) -> PlanConfig:
    """Return a config from a form's or a command's values. Raises InvalidInput naming field, value and bound."""
    try:
        return PlanConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"This can't be planned: {validation_message(error)}.") from error


def make_plan(
    config: PlanConfig,
    *,
    law: ScalingLaw,
    vocab_size: int,
    speeds: Sequence[Speed] = (),
    price_usd: float | None = None,
    unique_tokens: int | None = None,
) -> ScalingPlan:
    """Plan a run for a budget.

    `speeds` are measured rates of one device; `price_usd` is the installation's for a device-hour; `unique_tokens` are the dataset's.
    Raises InvalidInput, naming the field, for a budget in time or money without a rate or a price.
    """
    price = config.price_usd or price_usd
    if config.flops_per_s is not None:
        speeds = (Speed(flops_per_token=1.0, flops_per_s=config.flops_per_s, device="a device", source="the rate you gave"),)
    seconds = _budget_seconds(config, price)
    if seconds is not None and not speeds:
        raise InvalidInput(
            "How fast this machine trains is not known yet: no run and no probe was measured here.",
            remedy="Finish a run or a probe first, give the rate yourself (flops_per_s), or plan in FLOPs.",
            field="flops_per_s",
        )
    flops = config.flops if config.flops is not None else _flops_in(seconds or 0.0, speeds, config, law)
    for _ in range(SETTLING):
        optimum = _allocate(config, law, flops)
        architecture = propose_architecture(optimum.parameters, family=config.family, vocab_size=vocab_size, context=config.context)
        per_token = count_flops(architecture, context=config.context).training
        if seconds is None or abs(math.log(seconds * rate_at(speeds, per_token) / flops)) < 0.1:
            break
        flops = math.sqrt(flops * seconds * rate_at(speeds, per_token))  # half the way: measured rates may leap between sizes
    if seconds is not None:
        flops = seconds * rate_at(speeds, per_token)
        optimum = _allocate(config, law, flops)
    parameters = count_all(architecture)
    wanted_tokens = flops / per_token
    batch, steps = _make_batch(architecture, wanted_tokens, context=config.context)
    tokens = steps * batch.tokens
    worth = effective_tokens(tokens, unique_tokens) if unique_tokens else float(tokens)
    rate = rate_at(speeds, per_token) if speeds else None
    took = tokens * per_token / rate if rate else None
    plan = ScalingPlan(
        config=config, law=law, flops=flops, optimum=optimum, optimal_parameters=_optimal_parameters(config, law, optimum),
        architecture=architecture, parameters=parameters, flops_per_token=per_token, tokens=tokens, steps=steps, batch=batch,
        loss=law.loss_estimate(parameters, worth), unique_tokens=unique_tokens, epochs=tokens / unique_tokens if unique_tokens else None,
        seconds=took, cost_usd=took / 3600 * price if took is not None and price is not None else None,
        speed=min(speeds, key=lambda s: abs(math.log(s.flops_per_token / per_token))) if speeds else None,
        flops_per_s=rate, notes=(),
    )  # fmt: skip
    return _with_notes(plan)


def _with_notes(plan: ScalingPlan) -> ScalingPlan:
    return ScalingPlan(**{**plan.__dict__, "notes": tuple(plan_notes(plan))})


def _budget_seconds(config: PlanConfig, price: float | None) -> float | None:
    if config.device_hours is not None:
        return config.device_hours * 3600
    if config.money_usd is None:
        return None
    if price is None:
        raise InvalidInput(
            "What a device-hour costs here is not known.",
            remedy="Give its price, or let the operator set ROUNDHOUSE_DEVICE_HOUR_PRICE.",
            field="price_usd",
        )
    return config.money_usd / price * 3600


def _flops_in(seconds: float, speeds: Sequence[Speed], config: PlanConfig, law: ScalingLaw) -> float:
    """Return the FLOPs of a time. A larger network trains at another rate and the rate decides the size, so the two are settled in turn."""
    flops = seconds * max(speed.flops_per_s for speed in speeds)
    for _ in range(30):
        flops = seconds * rate_at(speeds, 6 * _allocate(config, law, flops).parameters)
    return flops


def _allocate(config: PlanConfig, law: ScalingLaw, flops: float) -> Allocation:
    return law.optimum(flops) if config.tokens_per_parameter is None else law.with_ratio(flops, config.tokens_per_parameter)


def _optimal_parameters(config: PlanConfig, law: ScalingLaw, optimum: Allocation) -> Estimate:
    if config.tokens_per_parameter is not None:
        return Estimate(optimum.parameters, None, None, None, 0, "fixed by the tokens per parameter that were asked for")
    return law.parameters_estimate(optimum.flops)


def _make_batch(architecture: ArchitectureConfig, tokens: float, *, context: int) -> tuple[Batch, int]:
    """Return the batch and the number of steps that fit the tokens, never more of them than asked for, one step at least."""
    size = count_without_embeddings(architecture)
    micro_batch, accumulate = split_batch(batch_tokens_rule(tokens), context=context)
    per_step = micro_batch * accumulate * context
    steps = min(MAX_STEPS, max(1, int(tokens / per_step)))
    rate = learning_rate_rule(size, tokens)
    return Batch(per_step, micro_batch, accumulate, rate.value, min(steps, max(1, steps // 20), 2000), rate.source), steps
