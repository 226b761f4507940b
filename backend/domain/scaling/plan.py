"""Plan a training run for a budget: parameters, tokens, batch, learning rate, expected loss, time and cost. Pure.

The same `PlanConfig` is behind the page's form and `roundhouse plan`; both show the same `ScalingPlan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_flops
from backend.domain.estimates.throughput import Speed, measured_range, rate_at
from backend.domain.fields import setting
from backend.domain.scaling.laws import (
    BELIEVABLE,
    DEFAULT_LAW,
    FLOPS_PER_PARAMETER_TOKEN,
    Allocation,
    ScalingLaw,
    effective_tokens,
)
from backend.domain.scaling.shapes import count_all, count_without_embeddings, propose_architecture
from backend.domain.statistics.estimates import Estimate
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import Objective
from backend.domain.training.published_rules import batch_tokens_rule, learning_rate_rule, split_batch
from backend.domain.validation import read_values
from backend.domain.wording import format_count, format_duration, format_factor, format_usd, percent
from backend.errors import InvalidInput

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


MAX_STEPS = 100_000_000
BEYOND = 4.0  # times the largest network: more is no plan for it
SETTLING = 12  # iterations between a time budget, the rate of a network and its size


def make_plan(
    config: PlanConfig,
    *,
    law: ScalingLaw,
    vocab_size: int,
    speeds: Sequence[Speed] = (),
    price_usd: float | None = None,
    unique_tokens: int | None = None,
    tokens_counted: bool = False,
) -> ScalingPlan:
    """Plan a run for a budget.

    `speeds` are measured rates of one device; `price_usd` is the installation's for a device-hour; `unique_tokens` are
    the dataset's, estimated unless `tokens_counted`. Raises InvalidInput, naming the field, for a budget in time or
    money without a rate or a price.
    """
    price = config.price_usd or price_usd
    if config.flops_per_s is not None:
        speeds = (
            Speed(flops_per_token=1.0, flops_per_s=config.flops_per_s, device="a device", source="the rate you gave"),
        )
    seconds = _budget_seconds(config, price)
    if seconds is not None and not speeds:
        raise InvalidInput(
            "The training speed of this machine is unknown: no run or probe was measured here.",
            remedy="Finish a run or a probe first, give the rate yourself (flops_per_s), or plan in FLOPs.",
            field="flops_per_s",
        )
    flops, optimum, architecture, per_token = _fit_budget(config, law, speeds, seconds=seconds, vocab_size=vocab_size)
    parameters = count_all(architecture)
    batch, steps = _make_batch(architecture, flops / per_token, context=config.context)
    tokens = steps * batch.tokens
    _check_budget(config, law, Budget(flops, seconds, price), optimum, parameters, step_flops=batch.tokens * per_token)
    worth = effective_tokens(tokens, unique_tokens) if unique_tokens else float(tokens)
    rate = rate_at(speeds, per_token) if speeds else None
    took = tokens * per_token / rate if rate else None
    plan = ScalingPlan(
        config=config,
        law=law,
        flops=flops,
        optimum=optimum,
        optimal_parameters=_optimal_parameters(config, law, optimum),
        architecture=architecture,
        parameters=parameters,
        flops_per_token=per_token,
        tokens=tokens,
        steps=steps,
        batch=batch,
        loss=law.loss_estimate(parameters, worth),
        unique_tokens=unique_tokens,
        tokens_counted=tokens_counted,
        epochs=tokens / unique_tokens if unique_tokens else None,
        seconds=took,
        cost_usd=took / 3600 * price if took is not None and price is not None else None,
        speed=min(speeds, key=lambda s: abs(math.log(s.flops_per_token / per_token))) if speeds else None,
        flops_per_s=rate,
        notes=(),
    )
    return replace(plan, notes=tuple(_plan_notes(plan)))


@dataclass(frozen=True)
class Budget:
    """A budget in FLOPs, and the time and the price of a device-hour that it came from."""

    flops: float
    seconds: float | None
    price: float | None

    def write(self, config: PlanConfig, flops: float) -> str:
        """Write an amount of FLOPs in the unit of the config's budget."""
        if config.flops is not None or self.seconds is None:
            return f"{flops:.2g} FLOPs"
        hours = flops / self.flops * self.seconds / 3600
        return (
            f"{hours:.3g} device-hours" if config.device_hours is not None else format_usd(hours * (self.price or 0.0))
        )

    def field(self, config: PlanConfig) -> str:
        """Return the name of the field that gave it."""
        return next(name for name in ("flops", "device_hours", "money_usd") if getattr(config, name) is not None)


def _check_budget(
    config: PlanConfig, law: ScalingLaw, budget: Budget, optimum: Allocation, parameters: int, *, step_flops: int
) -> None:
    """Raise InvalidInput for a budget below one step of the smallest model, or whose optimum is beyond the largest."""
    if budget.flops < step_flops:
        raise InvalidInput(
            f"A budget of {budget.write(config, budget.flops)} is less than one step: the smallest model here, of"
            f" {format_count(parameters)} parameters, takes {budget.write(config, step_flops)} for it.",
            remedy=f"Plan at least {budget.write(config, 200 * step_flops)}, which are 200 steps.",
            field=budget.field(config),
        )
    if optimum.parameters > BEYOND * parameters:
        low, high = 1.0, budget.flops
        while high > 1.01 * low:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if _allocate(config, law, middle).parameters > parameters else (middle, high)
        raise InvalidInput(
            f"A budget of {budget.write(config, budget.flops)} is for a model of {format_count(optimum.parameters)}"
            f" parameters; the largest here has {format_count(parameters)}.",
            remedy=f"Plan at most {budget.write(config, low)}.",
            field=budget.field(config),
        )


def _fit_budget(
    config: PlanConfig, law: ScalingLaw, speeds: Sequence[Speed], *, seconds: float | None, vocab_size: int
) -> tuple[float, Allocation, ArchitectureConfig, int]:
    """Return (FLOPs, optimum, architecture, training FLOPs per token)."""
    flops = config.flops if config.flops is not None else _flops_in(seconds or 0.0, speeds, config, law)
    for _ in range(SETTLING):
        optimum = _allocate(config, law, flops)
        architecture = propose_architecture(
            optimum.parameters, family=config.family, vocab_size=vocab_size, context=config.context
        )
        per_token = count_flops(architecture, context=config.context).training
        if seconds is None or abs(math.log(seconds * rate_at(speeds, per_token) / flops)) < 0.1:
            break
        # half a step: measured rates may jump between sizes
        flops = math.sqrt(flops * seconds * rate_at(speeds, per_token))
    if seconds is not None:
        flops = seconds * rate_at(speeds, per_token)
        optimum = _allocate(config, law, flops)
    return flops, optimum, architecture, per_token


def _budget_seconds(config: PlanConfig, price: float | None) -> float | None:
    if config.device_hours is not None:
        return config.device_hours * 3600
    if config.money_usd is None:
        return None
    if price is None:
        raise InvalidInput(
            "The price of a device-hour is unknown.",
            remedy="Give its price, or let an admin set it on the Costs page.",
            field="price_usd",
        )
    return config.money_usd / price * 3600


def _flops_in(seconds: float, speeds: Sequence[Speed], config: PlanConfig, law: ScalingLaw) -> float:
    """Return the FLOPs of a time. Rate and size depend on each other, so they are iterated."""
    flops = seconds * max(speed.flops_per_s for speed in speeds)
    for _ in range(30):
        flops = seconds * rate_at(speeds, 6 * _allocate(config, law, flops).parameters)
    return flops


def _allocate(config: PlanConfig, law: ScalingLaw, flops: float) -> Allocation:
    return (
        law.optimum(flops)
        if config.tokens_per_parameter is None
        else law.with_ratio(flops, config.tokens_per_parameter)
    )


def _optimal_parameters(config: PlanConfig, law: ScalingLaw, optimum: Allocation) -> Estimate:
    if config.tokens_per_parameter is not None:
        return Estimate(optimum.parameters, None, None, None, 0, "fixed by the requested tokens per parameter")
    return law.parameters_estimate(optimum.flops)


def _make_batch(architecture: ArchitectureConfig, tokens: float, *, context: int) -> tuple[BatchPlan, int]:
    """Return the batch and the number of steps for the tokens: at most that many tokens, at least one step."""
    size = count_without_embeddings(architecture)
    micro_batch, accumulate = split_batch(batch_tokens_rule(tokens), context=context)
    per_step = micro_batch * accumulate * context
    steps = min(MAX_STEPS, max(1, int(tokens / per_step)))
    rate = learning_rate_rule(size, tokens)
    return (
        BatchPlan(per_step, micro_batch, accumulate, rate.value, min(steps, max(1, steps // 20), 2000), rate.source),
        steps,
    )


MONTH_S = 30 * 86_400


def _plan_notes(plan: ScalingPlan) -> Iterator[str]:
    """Yield the notes of a plan, the most important first."""
    yield from _about_size(plan)
    yield from _about_data(plan)
    yield from _about_the_law(plan)
    yield from _about_time(plan)
    yield from _about_more(plan)


def _smallest(plan: ScalingPlan) -> int:
    config, shape = plan.config, plan.architecture
    return count_all(
        propose_architecture(1.0, family=config.family, vocab_size=shape.vocab_size, context=config.context)
    )


def _about_size(plan: ScalingPlan) -> Iterator[str]:
    optimum, vocabulary = plan.optimum.parameters, plan.architecture.vocab_size
    if plan.parameters > 1.5 * optimum and plan.parameters > 1.5 * _smallest(plan):
        yield (
            f"The optimum is {format_count(optimum)} parameters at the speed measured for"
            f" {format_count(plan.parameters)}: measured speeds vary too much between sizes to settle on one. Run a"
            " probe on an idle machine, or plan in FLOPs."
        )
    elif plan.parameters > 1.5 * optimum:
        yield (
            f"The optimum is {format_count(optimum)} parameters, but with a vocabulary of {vocabulary:,} the smallest"
            f" model has {format_count(plan.parameters)} and sees fewer tokens than optimal. Use a smaller vocabulary"
            " or a larger budget."
        )
    elif plan.parameters < optimum / 1.5:
        yield (
            f"The optimum is {format_count(optimum)} parameters; the largest model here has"
            f" {format_count(plan.parameters)}."
        )
    if plan.steps < 200:
        word = "step" if plan.steps == 1 else "steps"
        yield f"The budget covers only {plan.steps} {word} of {plan.batch.tokens:,} tokens. Use a larger budget."
    if plan.config.tokens_per_parameter is not None:
        best = plan.law.optimum(plan.flops)
        yield (
            f"With {plan.config.tokens_per_parameter:g} tokens per parameter instead of the optimal "
            f"{best.tokens_per_parameter:.3g}, the expected loss is {plan.optimum.loss:.3f} instead of {best.loss:.3f}."
        )


def _about_data(plan: ScalingPlan) -> Iterator[str]:
    if plan.unique_tokens is None or plan.epochs is None:
        return
    size = f"the dataset has {'' if plan.tokens_counted else 'about '}{format_count(plan.unique_tokens)} tokens"
    if plan.epochs <= 1.0:
        yield f"{percent(plan.epochs)} of one epoch: {size}."
        return
    worth = effective_tokens(plan.tokens, plan.unique_tokens) / plan.tokens
    text = (
        f"{plan.epochs:.3g} epochs: {size}. By Muennighoff et al. 2023 these {format_count(plan.tokens)} tokens are"
        f" worth {percent(worth)} of as many unique ones"
    )
    if plan.epochs <= 4:
        yield f"{text}: up to four epochs are nearly as good as new data."
    elif plan.epochs <= 16:
        yield f"{text}: returns diminish after four epochs. More data would help."
    else:
        more = format_count(plan.tokens / 4)
        yield f"{text}: past sixteen epochs there is almost no gain. This budget needs about {more} unique tokens."


def _about_the_law(plan: ScalingPlan) -> Iterator[str]:
    law, beyond, guess = plan.law, plan.law.outside(plan.flops), math.log(plan.architecture.vocab_size)
    if not plan.loss_is_believable and plan.optimum.loss < BELIEVABLE * guess:
        yield "With so little text the law expects little better than chance: the run would overfit."
    elif not plan.loss_is_believable:
        yield (
            f"The law gives a loss of {plan.loss.value:.2f} here, and chance level with"
            f" {plan.architecture.vocab_size:,} tokens is {guess:.2f}: it does not extrapolate to models of this"
            " size. The allocation holds roughly, the loss does not."
        )
    if beyond > 1.5:
        side = "smaller" if law.flops_range is not None and plan.flops < law.flops_range[0] else "larger"
        cure = "run a larger study to check" if law.is_own else "run a scaling study to check"
        yield (
            f"This budget is {format_factor(beyond)} {side} than the runs the law was fitted to: an extrapolation;"
            f" {cure}."
        )
    if not law.is_own:
        yield f"{law.note} The allocation carries over, the loss itself does not."


def _about_time(plan: ScalingPlan) -> Iterator[str]:
    if plan.seconds is None or plan.speed is None:
        yield "Duration unknown: no run or probe was measured here yet."
        return
    if plan.seconds > MONTH_S:
        yield f"It would take {format_duration(plan.seconds)} on this device."
    if plan.config.flops_per_s is None:
        low, high = measured_range([plan.speed])
        apart = max(low / plan.flops_per_token, plan.flops_per_token / high)
        if apart > 4:
            yield (
                f"The nearest measured model takes {format_factor(apart)} "
                f"{'more' if low > plan.flops_per_token else 'fewer'} FLOPs per token "
                "and speed changes with size: run a probe before you rely on the time."
            )


def _about_more(plan: ScalingPlan) -> Iterator[str]:
    if plan.config.tokens_per_parameter is not None or not plan.loss_is_believable:
        return
    more = plan.law.optimum(10 * plan.flops)
    yield (
        f"Ten times the budget would bring the expected loss from {plan.optimum.loss:.3f} to {more.loss:.3f} (unlimited"
        f" data); no budget brings it below {plan.law.E:.3f}."
    )
