"""Notes of a plan: its limits and how reliable it is, one or two sentences each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend.domain.estimates.throughput import measured_range
from backend.domain.scaling.laws import BELIEVABLE, effective_tokens
from backend.domain.scaling.shapes import count_all, propose_architecture
from backend.domain.wording import format_count, format_duration, format_factor, percent

if TYPE_CHECKING:
    from backend.domain.scaling.plan import ScalingPlan

MONTH_S = 30 * 86_400


def plan_notes(plan: ScalingPlan) -> Iterator[str]:
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
            f"With {plan.config.tokens_per_parameter:g} tokens per parameter instead of the optimal"
            f" {best.tokens_per_parameter:.3g}, the expected loss is {plan.optimum.loss:.3f} instead of"
            f" {best.loss:.3f}."
        )


def _about_data(plan: ScalingPlan) -> Iterator[str]:
    if plan.unique_tokens is None or plan.epochs is None:
        return
    if plan.epochs <= 1.0:
        yield f"{percent(plan.epochs)} of one epoch: the dataset has about {format_count(plan.unique_tokens)} tokens."
        return
    worth = effective_tokens(plan.tokens, plan.unique_tokens) / plan.tokens
    text = (
        f"{plan.epochs:.3g} epochs: the dataset has about {format_count(plan.unique_tokens)} tokens. By Muennighoff et"
        f" al. 2023 these {format_count(plan.tokens)} tokens are worth {percent(worth)} of as many unique ones"
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
