"""`roundhouse plan`: plan runs for a budget, and fit scaling laws to runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, command, emit, note, read_text
from backend.domain.attributes import attributes_of
from backend.domain.json_values import FieldValues
from backend.domain.scaling.fit import LawFit, fit_law
from backend.domain.scaling.isoflop import IsoflopFit, fit_isoflop
from backend.domain.scaling.laws import ScalingLaw, parse_points_csv
from backend.domain.scaling.plan import PlanConfig, ScalingPlan, parse_plan
from backend.domain.scaling.study import StudyPlan, format_budget
from backend.domain.statistics.estimates import Estimate
from backend.domain.wording import format_count, format_duration, format_number, format_usd, percent, plural
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.scaling.planner import list_laws, plan_run
from backend.services.scaling.studies import launch_study, preview_study, read_study, study_detail

app = CommandGroup(invoke_without_command=True)


@app.callback()
@command
@model_options(PlanConfig, partial=True)
def plan(
    call: typer.Context,
    *,
    options: FieldValues,
    file: Annotated[Path | None, typer.Option(help="Read these values from a YAML file; options override it.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Write the run as a recipe for `roundhouse run launch`.")] = None,
) -> None:
    """Plan a run for a budget: parameters, tokens, batch, learning rate, expected loss, time and cost."""
    if call.invoked_subcommand is not None:
        return
    values = _read_values(file) | options
    scaling_plan = plan_run(get_context(), parse_plan(values))
    if recipe is not None:
        run = scaling_plan.run_config()
        if run is None:
            raise InvalidInput("A recipe needs a dataset and a tokenizer.", remedy="Name both.", field="dataset")
        recipe.write_text(run.to_yaml(), encoding="utf-8")
        note(f"Wrote {recipe}.")
    emit(_plan_data(scaling_plan), text=_plan_text(scaling_plan))


@app.command("fit")
def fit(
    file: Annotated[Path, typer.Argument(help="CSV with the columns parameters, tokens and loss; flops if counted.")],
    flops: Annotated[float | None, typer.Option(help="Also print the optimum for this budget.")] = None,
    draws: Annotated[int, typer.Option(min=100, max=10_000, help="Resamples for the intervals.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
) -> None:
    """Fit L(N, D) = E + A / N^alpha + B / D^beta to finished runs, and a parabola to each budget that has several
    sizes.
    """
    points = parse_points_csv(read_text(file))
    law_fit = fit_law(points, num_draws=draws, seed=seed)
    isoflop = fit_isoflop(points, seed=seed)
    data = {**_fit_data(law_fit, flops=flops), "isoflop": _isoflop_data(isoflop)}
    emit(data, text=_fit_text(law_fit, isoflop, flops=flops))


@app.command("laws")
def laws() -> None:
    """List the published laws with their constants and sources."""
    published = list_laws()
    lines = [
        f"{law.key}: {law.title}\n  {', '.join(f'{name} {value:g}' for name, value in law.constants.items())}\n "
        f" {law.source}"
        for law in published
    ]
    emit({"laws": [_law_data(law) for law in published]}, text="\n".join(lines))


@app.command("study")
def study(
    file: Annotated[Path, typer.Argument(help="A study as YAML: name, dataset, tokenizer, budgets, sizes.")],
    launch: Annotated[bool, typer.Option("--launch", help="Queue its runs; without this they are only shown.")] = False,
) -> None:
    """Preview or launch a scaling study: networks of several sizes on equal budgets."""
    ctx = get_context()
    config = read_study(read_text(file))
    preview = preview_study(ctx, config)
    data, text = _study_data(preview), _study_text(preview)
    if launch:
        view = launch_study(ctx, config, person=LOCAL)
        data = {**data, "study": view.id, "launched": view.num_launched}
        text = f"{text}\nLaunched {plural(view.num_launched, 'run')} of “{view.name}” ({view.id})."
    emit(data, text=text)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A study's name or id.")],
    flops: Annotated[float | None, typer.Option(help="Also print the optimum for this budget.")] = None,
) -> None:
    """Show a study: its progress and the laws fitted to its runs."""
    detail = study_detail(get_context(), name)
    view = detail.study
    data: dict[str, object] = {
        "study": view.id,
        "name": view.name,
        "planned": view.num_planned,
        "launched": view.num_launched,
        "finished": view.num_finished,
        "active": view.num_active,
        "failed": view.num_failed,
        "stopped": view.num_stopped,
        "points": [asdict(point) for point in detail.own.points],
        "isoflop": _isoflop_data(detail.own.isoflop),
        "law": _fit_data(detail.own.law, flops=flops) if detail.own.law else None,
        "problem": detail.own.problem or None,
    }
    head = (
        f"{view.name}: {view.num_finished} of {view.num_planned} runs finished, {view.num_active} waiting or running."
    )
    body = _fit_text(detail.own.law, detail.own.isoflop, flops=flops) if detail.own.law else detail.own.problem
    emit(data, text=f"{head}\n{body}")


def _read_values(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    values = parse_yaml(read_text(file), what="The plan")
    if not isinstance(values, dict):
        raise InvalidInput("A plan is a mapping of fields to values, such as `flops: 1e15`.")
    return {key: float(value) if key == "flops" and isinstance(value, str) else value for key, value in values.items()}


def _estimate_data(estimate: Estimate) -> dict[str, object]:
    """Return an estimate as a JSON object."""
    return attributes_of(estimate, "value", "low", "high", "method")


def _law_data(law: ScalingLaw) -> dict[str, object]:
    """Return a law as a JSON object."""
    return {
        "law": law.key,
        **attributes_of(law, "title", "constants", "parameter_exponent"),
        "token_exponent": 1 - law.parameter_exponent,
        **attributes_of(law, "source", "note"),
        "runs": law.points,
        "flops_range": list(law.flops_range) if law.flops_range else None,
    }


def _plan_data(plan: ScalingPlan) -> dict[str, object]:
    """Return a plan as a JSON object."""
    run = plan.run_config()
    return {
        "flops": plan.flops,
        "law": _law_data(plan.law),
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
        "loss": {**_estimate_data(plan.loss), "believable": plan.loss_is_believable},
        **attributes_of(plan, "unique_tokens", "epochs", "seconds", "cost_usd"),
        "speed": {"flops_per_s": plan.flops_per_s, "device": plan.speed.device, "source": plan.speed.source}
        if plan.speed
        else None,
        "notes": list(plan.notes),
        "run": run.model_dump(mode="json", exclude_defaults=True) if run else None,
    }


def _plan_text(plan: ScalingPlan) -> str:
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


def _fit_data(fit: LawFit, *, flops: float | None = None) -> dict[str, object]:
    """Return a fitted law as a JSON object, with the optimum for a budget if one is given."""
    data: dict[str, object] = {
        "constants": {name: _estimate_data(value) for name, value in fit.constants.items()},
        "parameter_exponent": _estimate_data(fit.parameter_exponent),
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
            "parameters": _estimate_data(fit.law.parameters_estimate(flops)),
            "tokens": optimum.tokens,
            "loss": _estimate_data(fit.law.loss_estimate(optimum.parameters, optimum.tokens)),
        }
    return data


def _isoflop_data(fit: IsoflopFit) -> dict[str, object]:
    """Return IsoFLOP profiles as a JSON object."""
    return {
        "exponent": _estimate_data(fit.exponent) if fit.exponent else None,
        "coefficient": fit.coefficient,
        "profiles": [
            {
                "flops": profile.flops,
                "runs": len(profile.points),
                "lowest_loss": profile.lowest_loss,
                "tokens": profile.best_tokens,
                "parameters": _estimate_data(profile.best_parameters) if profile.best_parameters else None,
            }
            for profile in fit.profiles
        ],
    }


def _fit_text(fit: LawFit, isoflop: IsoflopFit, *, flops: float | None = None) -> str:
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


def _study_data(plan: StudyPlan) -> dict[str, object]:
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


def _study_text(plan: StudyPlan) -> str:
    """Return a study's runs in lines."""
    lines = [
        f"  {format_budget(run.budget):>8} FLOPs  {run.parameters:>14,} parameters  "
        f"{format_count(run.tokens):>14} tokens  {run.config.max_steps:>8,} steps"
        + (f"  {format_duration(run.seconds)}" if run.seconds is not None else "")
        for run in plan.runs
    ]
    total = f"{len(plan.runs)} runs" + (f", {format_duration(plan.seconds)} in all" if plan.seconds is not None else "")
    return "\n".join([f"{plan.config.name}: {total}", *lines, *(f"- {text}" for text in plan.notes)])
