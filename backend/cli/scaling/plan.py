"""`roundhouse plan`: plan runs for a budget, and fit scaling laws to runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, command, emit, note, read_text
from backend.cli.scaling.plan_table import (
    fit_data,
    fit_text,
    isoflop_data,
    law_data,
    plan_data,
    plan_text,
    study_data,
    study_text,
)
from backend.domain.json_values import FieldValues
from backend.domain.scaling.fit import fit_law
from backend.domain.scaling.isoflop import fit_isoflop
from backend.domain.scaling.laws import parse_points_csv
from backend.domain.scaling.plan import PlanConfig, parse_plan
from backend.domain.wording import plural
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
    emit(plan_data(scaling_plan), text=plan_text(scaling_plan))


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
    data = {**fit_data(law_fit, flops=flops), "isoflop": isoflop_data(isoflop)}
    emit(data, text=fit_text(law_fit, isoflop, flops=flops))


@app.command("laws")
def laws() -> None:
    """List the published laws with their constants and sources."""
    published = list_laws()
    lines = [
        f"{law.key}: {law.title}\n  {', '.join(f'{name} {value:g}' for name, value in law.constants.items())}\n "
        f" {law.source}"
        for law in published
    ]
    emit({"laws": [law_data(law) for law in published]}, text="\n".join(lines))


@app.command("study")
def study(
    file: Annotated[Path, typer.Argument(help="A study as YAML: name, dataset, tokenizer, budgets, sizes.")],
    launch: Annotated[bool, typer.Option("--launch", help="Queue its runs; without this they are only shown.")] = False,
) -> None:
    """Preview or launch a scaling study: networks of several sizes on equal budgets."""
    ctx = get_context()
    config = read_study(read_text(file))
    preview = preview_study(ctx, config)
    data, text = study_data(preview), study_text(preview)
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
        "isoflop": isoflop_data(detail.own.isoflop),
        "law": fit_data(detail.own.law, flops=flops) if detail.own.law else None,
        "problem": detail.own.problem or None,
    }
    head = (
        f"{view.name}: {view.num_finished} of {view.num_planned} runs finished, {view.num_active} waiting or running."
    )
    body = fit_text(detail.own.law, detail.own.isoflop, flops=flops) if detail.own.law else detail.own.problem
    emit(data, text=f"{head}\n{body}")


def _read_values(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    values = parse_yaml(read_text(file), what="The plan")
    if not isinstance(values, dict):
        raise InvalidInput("A plan is a mapping of fields to values, such as `flops: 1e15`.")
    return {key: float(value) if key == "flops" and isinstance(value, str) else value for key, value in values.items()}
