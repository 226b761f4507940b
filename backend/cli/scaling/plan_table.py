"""Plans, fits and studies as JSON objects and as text for a terminal."""

from __future__ import annotations

from backend.domain.attributes import attributes_of
from backend.domain.scaling.fit import LawFit
from backend.domain.scaling.isoflop import IsoflopFit
from backend.domain.scaling.laws import ScalingLaw
from backend.domain.scaling.plan import ScalingPlan
from backend.domain.scaling.study import StudyPlan, format_budget
from backend.domain.statistics.estimates import Estimate
from backend.domain.wording import format_count, format_duration, format_number, format_usd, percent


def estimate_data(estimate: Estimate) -> dict[str, object]:
    """Return an estimate as a JSON object."""
    return attributes_of(estimate, "value", "low", "high", "method")


def law_data(law: ScalingLaw) -> dict[str, object]:
    """Return a law as a JSON object."""
    return {
        "law": law.key,
        **attributes_of(law, "title", "constants", "parameter_exponent"),
        "token_exponent": 1 - law.parameter_exponent,
        **attributes_of(law, "source", "note"),
        "runs": law.points,
        "flops_range": list(law.flops_range) if law.flops_range else None,
    }


def plan_data(plan: ScalingPlan) -> dict[str, object]:
    """Return a plan as a JSON object."""
    run = plan.run_config()
    return {
        "flops": plan.flops,
        "law": law_data(plan.law),
        "optimum": {
            **attributes_of(plan.optimum, "parameters", "tokens", "tokens_per_parameter", "loss"),
            "parameters_low": plan.optimal_parameters.low,
            "parameters_high": plan.optimal_parameters.high,
        },
        **attributes_of(plan, "parameters", "tokens", "flops_per_token"),
        "architecture": plan.architecture.model_dump(mode="json", exclude_none=True),
        "batch_tokens": plan.batch.tokens,
        **attributes_of(plan.batch, "micro_batch", "grad_accum_steps", "learning_rate", "warmup_steps"),
        "hyperparameter_source": plan.batch.source,
        "steps": plan.steps,
        "loss": {**estimate_data(plan.loss), "believable": plan.loss_is_believable},
        **attributes_of(plan, "unique_tokens", "epochs", "seconds", "cost_usd"),
        "speed": {"flops_per_s": plan.flops_per_s, "device": plan.speed.device, "source": plan.speed.source}
        if plan.speed
        else None,
        "notes": list(plan.notes),
        "run": run.model_dump(mode="json", exclude_defaults=True) if run else None,
    }


def plan_text(plan: ScalingPlan) -> str:
    """Return a plan in lines."""
    shape, batch = plan.architecture, plan.batch
    lines = [
        f"{plan.flops:.3g} FLOPs by {plan.law.title}",
        (
            f"  optimum        {format_count(plan.optimum.parameters)}"
            f" parameters{plan.optimal_parameters.bracketed(format_count)}, {format_count(plan.optimum.tokens)} tokens"
            f" ({plan.optimum.tokens_per_parameter:.3g} for each)"
        ),
        (
            f"  model        {plan.parameters:,} parameters: {shape.family}, {shape.num_layers} layers, "
            f"{shape.width} wide, {shape.num_heads} heads"
        ),
        (
            f"  training       {format_count(plan.tokens)} tokens in {plan.steps:,} steps of {batch.tokens:,}, "
            f"learning rate {format_number(batch.learning_rate)}, warm-up {batch.warmup_steps} steps"
        ),
        (
            f"  expected loss  {plan.loss.value:.3f}{plan.loss.bracketed(lambda v: f'{v:.3f}')}"
            if plan.loss_is_believable
            else "  expected loss  no estimate"
        ),
    ]
    if plan.seconds is not None and plan.speed is not None:
        cost = f", {format_usd(plan.cost_usd)}" if plan.cost_usd is not None else ""
        lines.append(
            f"  time           {format_duration(plan.seconds)}{cost} ({plan.speed.device}: {plan.speed.source})"
        )
    return "\n".join([*lines, *(f"- {text}" for text in plan.notes)])


def fit_data(fit: LawFit, *, flops: float | None = None) -> dict[str, object]:
    """Return a fitted law as a JSON object, with the optimum for a budget if one is given."""
    data: dict[str, object] = {
        "constants": {name: estimate_data(value) for name, value in fit.constants.items()},
        "parameter_exponent": estimate_data(fit.parameter_exponent),
        "points": fit.num_points,
        "typical_error": fit.typical_error,
        "objective": fit.objective,
        "method": fit.method,
        "warnings": list(fit.warnings),
    }
    if flops is not None:
        optimum = fit.law.optimum(flops)
        data["optimum"] = {
            "flops": flops,
            "parameters": estimate_data(fit.law.parameters_estimate(flops)),
            "tokens": optimum.tokens,
            "loss": estimate_data(fit.law.loss_estimate(optimum.parameters, optimum.tokens)),
        }
    return data


def isoflop_data(fit: IsoflopFit) -> dict[str, object]:
    """Return IsoFLOP profiles as a JSON object."""
    return {
        "exponent": estimate_data(fit.exponent) if fit.exponent else None,
        "coefficient": fit.coefficient,
        "profiles": [
            {
                "flops": profile.flops,
                "runs": len(profile.points),
                "lowest_loss": profile.lowest_loss,
                "tokens": profile.best_tokens,
                "parameters": estimate_data(profile.best_parameters) if profile.best_parameters else None,
            }
            for profile in fit.profiles
        ],
    }


def fit_text(fit: LawFit, isoflop: IsoflopFit, *, flops: float | None = None) -> str:
    """Return a fitted law and its profiles in lines."""
    lines = [
        f"L = E + A / N^alpha + B / D^beta, {fit.num_points} runs, typical error {percent(fit.typical_error, digits=2)}"
        " of the loss"
    ]
    lines += [
        f"  {name:<6}{value.value:>12.5g}{value.bracketed(lambda v: f'{v:.5g}')}"
        for name, value in fit.constants.items()
    ]
    lines.append(
        f"  N ~ C^{fit.parameter_exponent.value:.3f}{fit.parameter_exponent.bracketed(lambda v: f'{v:.3f}')} "
        f" ({fit.method})"
    )
    if isoflop.exponent is not None:
        lines.append(
            f"  IsoFLOP profiles: N ~ C^{isoflop.exponent.value:.3f}{isoflop.exponent.bracketed(lambda v: f'{v:.3f}')}"
        )
    for profile in isoflop.profiles:
        best = profile.best_parameters
        best_size = (
            f"best {format_count(best.value)} parameters{best.bracketed(format_count)}"
            if best
            else "no lowest point among the sizes trained"
        )
        lines.append(f"    {format_budget(profile.flops)} FLOPs, {len(profile.points)} runs: {best_size}")
    if flops is not None:
        optimum = fit.law.optimum(flops)
        lines.append(
            f"  at {flops:.3g} FLOPs: {format_count(optimum.parameters)} parameters"
            f"{fit.law.parameters_estimate(flops).bracketed(format_count)}, "
            f"{format_count(optimum.tokens)} tokens, loss {optimum.loss:.3f}"
        )
    return "\n".join([*lines, *(f"- {text}" for text in fit.warnings)])


def study_data(plan: StudyPlan) -> dict[str, object]:
    """Return a study's runs as a JSON object."""
    return {
        "name": plan.config.name,
        "seconds": plan.seconds,
        "notes": list(plan.notes),
        "runs": [
            {
                **attributes_of(run, "budget", "parameters", "tokens", "flops"),
                "steps": run.config.max_steps,
                "batch_tokens": run.config.tokens_per_step,
                "learning_rate": run.config.learning_rate,
                **attributes_of(run, "epochs", "seconds"),
                "name": run.config.name,
            }
            for run in plan.runs
        ],
    }


def study_text(plan: StudyPlan) -> str:
    """Return a study's runs in lines."""
    lines = [
        f"  {format_budget(run.budget):>8} FLOPs  {run.parameters:>14,} parameters  "
        f"{format_count(run.tokens):>14} tokens  {run.config.max_steps:>8,} steps"
        + (f"  {format_duration(run.seconds)}" if run.seconds is not None else "")
        for run in plan.runs
    ]
    total = f"{len(plan.runs)} runs" + (f", {format_duration(plan.seconds)} in all" if plan.seconds is not None else "")
    return "\n".join([f"{plan.config.name}: {total}", *lines, *(f"- {text}" for text in plan.notes)])
