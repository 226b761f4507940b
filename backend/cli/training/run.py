"""`roundhouse run`: launch, probe, show, list, cancel and resume runs; reports, and files for other launchers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, command, emit, read_text
from backend.cli.training.forecast_table import ask_to_proceed, describe_forecast, forecast_lines, warning_lines
from backend.cli.training.sweep import sweep, sweep_show, sweep_stop
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.estimates.prediction import Prediction, describe_fit, format_memory, format_run_time
from backend.domain.evaluation.suites import Moment
from backend.domain.jobs.results import ProbeResult
from backend.domain.jobs.states import status_word
from backend.domain.training.config import RunConfig, parse_run_config
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.training.launcher_files import NOT_RUN, accelerate_config, deepspeed_config, describe_distribution
from backend.errors import InvalidInput
from backend.recipes import RECIPES, get_recipe
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.estimates.forecasts import forecast
from backend.services.estimates.measurements import predict
from backend.services.estimates.probes import launch_probe
from backend.services.evaluation.open_suites import SuiteChoice
from backend.services.evaluation.suites import get_suite
from backend.services.jobs.devices import find_device
from backend.services.jobs.gangs import describe_gang
from backend.services.jobs.placements import describe_nodes, describe_waiting
from backend.services.metrics.points import last_values
from backend.services.training.diagnosis import diagnose_run, useless_runs
from backend.services.training.imported_runs import import_log_path
from backend.services.training.reports import run_report_text
from backend.services.training.run_table import NEWEST_FIRST, RunQuery, find_runs, read_run_table, suggest_filter_values
from backend.services.training.runs import launch_run, resume_run, stop_run
from backend.services.training.views import RunDetail, RunView, get_run, get_runs, how_to_repeat, list_runs, run_detail


@command
def report(
    run: Annotated[str, typer.Argument(help="Name or id.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A file to write, .md or .html; printed as Markdown when left out."),
    ] = None,
) -> None:
    """Write a run's report: config, data, cost, curves, evaluations, samples, lineage, and how to repeat it."""
    form = "html" if out is not None and out.suffix in (".html", ".htm") else "md"
    if out is not None and out.suffix not in (".html", ".htm", ".md"):
        raise InvalidInput(
            f"A report is .md or .html, and {out.name} is neither.",
            remedy="Choose one of the two endings.",
            field="out",
        )
    text = run_report_text(get_context(), run, form=form)
    if out is None:
        emit({"report": text}, text=text)
        return
    out.write_text(text, encoding="utf-8")
    emit({"file": str(out), "bytes": out.stat().st_size}, text=f"Written to {out}.")


@command
def cluster(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the files.")] = Path("cluster"),
) -> None:
    """Write Accelerate's and DeepSpeed's configs for a recipe's devices, for other training scripts."""
    config = get_recipe(recipe).config if recipe in RECIPES else parse_run_config(read_text(Path(recipe)))
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "accelerate.yaml": yaml.safe_dump(accelerate_config(config, deepspeed_file="deepspeed.json"), sort_keys=False)
    }
    if config.devices.sharding in ("zero2", "zero3"):
        files["deepspeed.json"] = json.dumps(deepspeed_config(config), indent=2) + "\n"
    for name, text in files.items():
        (out / name).write_text(text)
    data = {"folder": str(out), "files": sorted(files), "share": describe_distribution(config), "state": NOT_RUN}
    emit(data, text=f"{describe_distribution(config)}: {', '.join(sorted(files))} in {out}. {NOT_RUN}")


app = CommandGroup(no_args_is_help=True)
for verb in (sweep, sweep_show, sweep_stop, report, cluster):
    app.command(verb.__name__.replace("_", "-"))(verb)

WaitFlag = Annotated[bool, typer.Option("--wait", help="Return when the run has ended.")]


@app.command("launch")
def launch(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe such as starter-pretrain.")],
    wait: WaitFlag = False,
    key: Annotated[str | None, typer.Option(help="Launching again with the same key gives the same run.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run, in place of the recipe's.")] = None,
    parent: Annotated[str | None, typer.Option(help="The parent run, by name or id.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept all warnings.")] = False,
    suite: Annotated[str | None, typer.Option(help="Suite of benchmarks to evaluate the run's checkpoints on.")] = None,
    suite_at: Annotated[Moment, typer.Option(help="When: at the end of the run, or at each checkpoint.")] = Moment.END,
    on: Annotated[
        str | None, typer.Option(help="Partition of a cluster to run on, such as slurm:gpu; else the workers here.")
    ] = None,
) -> None:
    """Launch a run from a recipe. Warnings are printed first; at a terminal they must be accepted, unless --yes is
    given.
    """
    ctx = get_context()
    config = read_recipe(recipe)
    if name:
        config = config.model_copy(update={"name": name})
    expected = forecast(ctx, config)
    ask_to_proceed(expected.warnings, yes=yes)
    run = launch_run(
        ctx,
        config,
        person=LOCAL,
        idempotency_key=key,
        parts=expected.parts,
        parent=parent,
        warnings=expected.warnings,
        suites=[SuiteChoice(get_suite(ctx, suite).id, suite_at)] if suite else (),
        placement=on,
    )
    _finish(ctx, run, wait=wait, warnings=expected.warnings)


@app.command("forecast")
def forecast_(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe such as starter-pretrain.")],
    on: Annotated[str | None, typer.Option(help="Partition of a cluster to run on; else the workers here.")] = None,
) -> None:
    """Estimate a run's time, memory, disk and cost, and print warnings, without launching it."""
    ctx, config = get_context(), read_recipe(recipe)
    expected = forecast(ctx, config)
    nodes = describe_nodes(ctx, on, config) if on else ""
    lines = [*forecast_lines(expected, nodes=nodes), *warning_lines(expected.warnings)]
    emit(describe_forecast(expected, nodes=nodes), text="\n".join(lines))


@app.command("probe")
def probe(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe such as starter-pretrain.")],
) -> None:
    """Measure a run's peak memory and speed in about 20 seconds. It leaves no run and no checkpoint."""
    ctx = get_context()
    config = read_recipe(recipe)
    job = wait_for_job(ctx, launch_probe(ctx, config, person=LOCAL).id)
    result = ProbeResult.model_validate(job.result)
    device = find_device(ctx, result.device, result.device_kind)
    prediction = predict(ctx, config, device=device)
    lines = [
        f"peak memory  {format_memory(prediction.memory)}. {describe_fit(prediction)}",
        f"speed        {result.tokens_per_s:,.0f} tokens/s, {result.step_s or 0:.3g} s for {_micro_batches(result)}",
        (
            f"time         {format_run_time(prediction.time)} for {config.max_steps:,} steps, without evaluations and"
            " checkpoints"
        ),
    ]
    emit({"job": job.id, **describe_prediction(prediction)}, text="\n".join(lines))


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help=(
                "trainer_state.json, a CSV with a column `step`, lines of JSON, TensorBoard's event file or its folder."
            )
        ),
    ],
    name: Annotated[
        str, typer.Option(help="Name of the run; the file's name by default. Before the names of several in one file.")
    ] = "",
) -> None:
    """Read another program's log as a run to compare with."""
    runs = import_log_path(get_context(), file, person=LOCAL, name=name)
    emit(
        {"runs": [describe_run(run) for run in runs]},
        text="\n".join(f"{run.name} ({run.id}): {run.line}." for run in runs),
    )


@app.command("show")
def show(run: Annotated[str, typer.Argument(help="Name or id.")]) -> None:
    """Show a run: status, newest metrics, checkpoints, and diagnosis."""
    ctx = get_context()
    view = get_run(ctx, run)
    if view.is_imported:
        metrics = {name: {"step": step, "value": value} for name, (step, value) in last_values(ctx, view.id).items()}
        lines = [f"{view.name}  {view.line}"] + [
            f"  {name}: {value['value']:.6g} (step {value['step']})" for name, value in metrics.items()
        ]
        emit({**describe_run(view), "metrics": metrics}, text="\n".join(lines))
        return
    detail = run_detail(ctx, run)
    data = describe_detail(ctx, detail)
    lines = [f"{detail.run.name}  {_status(detail.run, data['useless'])}  {detail.run.line}"]
    if detail.run.job_id and (waiting := describe_waiting(ctx, detail.run.job_id)) is not None:
        lines.append(f"  {waiting.sentence}")
    if detail.run.job_id and (waiting_for := describe_gang(ctx, detail.run.job_id)):
        lines.append(f"  {waiting_for}")
    lines += [f"  resumed {change}" for change in data["resumed"]]
    lines += [f"  {metric}: {value['value']:.6g} (step {value['step']})" for metric, value in data["metrics"].items()]
    lines += [f"  checkpoint: {checkpoint['name']}" for checkpoint in data["checkpoints"]]
    lines += [f"  {finding['severity']}: {finding['sentence']} {finding['cause']}" for finding in data["findings"]]
    if detail.run.error:
        lines.append(f"  cause: {detail.run.error.cause}")
    emit(data, text="\n".join(lines))


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    archived: Annotated[bool, typer.Option("--archived", help="List archived runs instead.")] = False,
    filter_: Annotated[
        str, typer.Option("--filter", help="Condition, such as 'learning_rate < 0.01 and tag = baseline'.")
    ] = "",
    sort: Annotated[str, typer.Option(help="Field to sort by, with - before it for the highest first.")] = NEWEST_FIRST,
) -> None:
    """List runs, newest first. Fields are those of the page Runs."""
    ctx = get_context()
    if filter_ or sort != NEWEST_FIRST:
        table, query = read_run_table(ctx), RunQuery(archived=archived, filter=filter_, order=sort)
        rows = find_runs(ctx, query, table=table)
        none = " ".join(["No run passes the filter.", *([] if rows else suggest_filter_values(table, query))])
        runs = get_runs(ctx, [row.id for row in rows[:limit]])
    else:
        runs, none = list_runs(ctx, limit=limit, archived=archived), "No runs yet."
    useless = useless_runs(ctx, [run.id for run in runs])
    states = {run.id: _status(run, useless.get(run.id)) for run in runs}
    width = max(map(len, states.values()), default=0)
    emit(
        {"runs": [describe_run(run) | {"useless": useless.get(run.id)} for run in runs]},
        text="\n".join(f"{run.id}  {states[run.id]:<{width}}  {run.name}  {run.line}" for run in runs) or none,
    )


@app.command("cancel")
def cancel(
    run: Annotated[str, typer.Argument(help="Name or id.")],
    save: Annotated[bool, typer.Option("--save", help="Keep a checkpoint, from which the run can be resumed.")] = False,
) -> None:
    """Ask a run to stop. Without --save its last checkpoint stays, and later steps are lost."""
    ctx = get_context()
    stopped = stop_run(ctx, run, how="stop_and_save" if save else "cancel", person=LOCAL)
    last = None if save else next(iter(list_checkpoints(ctx, run_id=stopped.id)), None)
    lost = (
        ""
        if save
        else " No checkpoint is saved, and the run has none."
        if last is None
        else f" Nothing is saved now: its last checkpoint is that of step {last.step:,}."
    )
    emit(describe_run(stopped), text=f"{stopped.name} is {status_word(stopped.status)}.{lost}")


@app.command("resume")
def resume(
    run: Annotated[str, typer.Argument(help="Name or id.")],
    max_steps: Annotated[int | None, typer.Option(min=1, help="New number of steps in all.")] = None,
    wait: WaitFlag = False,
) -> None:
    """Resume a run from its newest checkpoint."""
    ctx = get_context()
    _finish(ctx, resume_run(ctx, run, person=LOCAL, max_steps=max_steps), wait=wait)


def read_recipe(recipe: str) -> RunConfig:
    """Return the config of a YAML file or of a recipe's name. Raises InvalidInput or NotFound."""
    path = Path(recipe)
    if path.suffix.lower() not in {".yaml", ".yml"} and not path.is_file():
        return get_recipe(recipe).config
    if not path.is_file():
        raise InvalidInput(f"There is no file {recipe!r}.", remedy=f"Give a YAML file, or one of {', '.join(RECIPES)}.")
    return parse_run_config(read_text(path))


def describe_run(run: RunView) -> dict[str, Any]:
    """Return a run as a JSON object."""
    return {
        "run": run.id,
        "name": run.name,
        "status": run.status.value,
        "objective": run.objective,
        "step": run.last_step,
        **attributes_of(run, "max_steps", "best_val_loss", "dataset", "base"),
        "job": run.job_id,
        "created_at": run.created_at.isoformat(),
        "error": run.error.dump() or None,
    }


def describe_detail(ctx: Context, detail: RunDetail) -> dict[str, Any]:
    """Return a run with its newest values, checkpoints, findings and config as a JSON object. `useless`: `diverged` or
    `learned nothing` of a finished run. `resumed`: where its steps were changed, so that the config alone does not
    repeat it.
    """
    return {
        **describe_run(detail.run),
        "useless": useless_runs(ctx, [detail.run.id]).get(detail.run.id),
        "metrics": {
            name: {"step": step, "value": value} for name, (step, value) in last_values(ctx, detail.run.id).items()
        },
        "checkpoints": [
            {
                "checkpoint": line.id,
                "name": line.name,
                "step": line.step,
                "val_loss": line.val_loss,
                "final": line.is_final,
            }
            for line in detail.checkpoints
        ],
        "findings": [
            {
                "kind": finding.kind.value,
                **attributes_of(finding, "severity", "sentence", "cause", "step"),
                "changes": dict(finding.changes),
            }
            for finding in diagnose_run(ctx, detail.run.id)
        ],
        "resumed": list(how_to_repeat(ctx, detail).resumes),
        "config": detail.config.model_dump(mode="json"),
    }


def _status(run: RunView, useless: str | None) -> str:
    """Return a run's status, and whether it diverged or learned nothing."""
    return f"{status_word(run.status)}, {useless}" if useless else status_word(run.status)


def describe_prediction(prediction: Prediction) -> dict[str, object]:
    """Return a prediction as a JSON object, in bytes and seconds."""
    memory, time = prediction.memory, prediction.time
    return {
        "device": prediction.device,
        "device_bytes": prediction.device_bytes,
        "fits": prediction.fits,
        "memory_bytes": memory.num_bytes,
        "memory_source": memory.source,
        "memory_error": memory.error,
        "formula_bytes": memory.formula.total if memory.formula else None,
        "memory_parts": memory.formula.parts if memory.formula else None,
        "seconds": time.seconds if time else None,
        "seconds_low": time.low if time else None,
        "seconds_high": time.high if time else None,
        "tokens_per_s": time.tokens_per_s if time else None,
    }


def _micro_batches(result: ProbeResult) -> str:
    count = result.accumulated or 1
    return "a step" if count == 1 else f"{count} micro-batches"


def _finish(ctx: Context, run: RunView, *, wait: bool, warnings: Sequence[LaunchWarning] = ()) -> None:
    if wait and run.job_id:
        wait_for_job(ctx, run.job_id)
        run = get_run(ctx, run.id)
    data = describe_detail(ctx, run_detail(ctx, run.id)) if wait else describe_run(run)
    if warnings:
        data["warnings"] = [warning.model_dump(mode="json") for warning in warnings]
    emit(data, text=f"{run.name}: {run.line[:1].lower()}{run.line[1:]}.")
