"""`roundhouse eval`: evaluate a checkpoint or an endpoint on a benchmark, or compute log-likelihoods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from backend.bootstrap import get_context
from backend.cli.evaluation.compare import compare
from backend.cli.evaluation.endpoint import app as endpoints
from backend.cli.evaluation.endpoint import find_or_add
from backend.cli.evaluation.gate import gate as judge_gate
from backend.cli.evaluation.judge import judge as judge_answers
from backend.cli.evaluation.safety import app as safety
from backend.cli.evaluation.score import score as score_answers
from backend.cli.evaluation.suite import app as suite
from backend.cli.evaluation.suite import run_and_emit
from backend.cli.evaluation.task import read_task_option, read_task_text
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, command, emit, note, score_data
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.evaluation.config import EvaluationConfig, score_name
from backend.domain.evaluation.tasks.reading import TaskGroup
from backend.domain.jobs.states import status_word
from backend.domain.json_values import FieldValues
from backend.domain.wording import percent
from backend.errors import Conflict, InvalidInput, JobFailed, NotFound
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.checkpoints.generation import launch_loglikelihoods, read_loglikelihoods
from backend.services.context import LOCAL, Context
from backend.services.evaluation.checks import LABEL, launch_check, read_check
from backend.services.evaluation.evaluations import (
    EvaluationView,
    get_evaluation,
    launch_evaluation,
    list_evaluations,
    plan_evaluation,
)
from backend.services.evaluation.exchange import ExportFormat, board_html, export_evaluation, import_results, scores_csv
from backend.services.evaluation.forecasts import describe_cap, describe_cuts
from backend.services.evaluation.suites import suite_of_group, tasks_of
from backend.services.evaluation.task_fit import resolve_benchmark
from backend.services.evaluation.tasks import find_task, suggest_task


@command
def export(
    to: Annotated[Path, typer.Option(help="File to write; refused where it exists.")],
    evaluation: Annotated[str | None, typer.Argument(help="Id of an evaluation; left out: the scores of all.")] = None,
    form: Annotated[ExportFormat, typer.Option("--format", help="lm-eval: a zip of results and samples.")] = "csv",
) -> None:
    """Write an evaluation, or the scores of all, as CSV, as an HTML report or in the form of lm-evaluation-harness."""
    ctx = get_context()
    if to.exists():
        raise Conflict(f"{to} exists already.", remedy="Give another name.")
    if evaluation is not None:
        content = export_evaluation(ctx, evaluation, form=form)
    elif form == "lm-eval":
        raise NotFound("lm-evaluation-harness has a file for each evaluation.", remedy="Name an evaluation.")
    else:
        content = (board_html(ctx) if form == "html" else scores_csv(list_evaluations(ctx, limit=5000))).encode()
    to.write_bytes(content)
    emit(
        {"file": str(to), "bytes": len(content), "format": form},
        text=f"Wrote {to} ({len(content):,} bytes).",
    )


@command
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="Results files of lm-evaluation-harness, or JSON of the same form.")
    ],
) -> None:
    """Import scores that other programs measured, to be shown beside ours and never tested against them."""
    imported = []
    for file in files:
        if not file.is_file():
            raise NotFound(f"There is no file {file}.")
        imported += import_results(get_context(), file.read_bytes(), source=file.name, person=LOCAL)
    rows = [
        {
            **attributes_of(one, "id", "model", "benchmark"),
            "scores": [score.model_dump() for score in one.scores],
            "source": one.source,
        }
        for one in imported
    ]
    lines = [f"{one.model} on {one.benchmark}: {len(one.scores)} scores" for one in imported]
    emit({"imported": rows}, text="\n".join(lines))


@command
def check(
    evaluation: Annotated[str, typer.Argument(help="Id of a finished evaluation.")],
    against: Annotated[Literal["lm_eval", "plain"], typer.Option(help="The other engine.")] = "lm_eval",
    items: Annotated[int, typer.Option(help="Randomly drawn items; 0: all of them.")] = 0,
) -> None:
    """Compute items of an evaluation by another engine too, and show the largest difference."""
    ctx = get_context()
    wait_for_job(ctx, launch_check(ctx, evaluation, person=LOCAL, against=against, items=items).id)
    result = read_check(ctx, evaluation)
    if result is None:
        raise JobFailed("The check left no result.", remedy="See the job's log.")
    largest = "none" if result.largest_difference is None else f"{result.largest_difference:.2g} nats"
    lines = [
        f"{result.items} items by {result.engine} and by {LABEL[against]}",
        f"  largest difference of a log-likelihood   {largest}",
        f"  items with another choice or answer      {result.other_choices}",
        f"  items with another value                 {result.other_values}",
    ]
    emit({"evaluation": evaluation, **result.model_dump(mode="json")}, text="\n".join(lines))


app = CommandGroup(no_args_is_help=True)
app.command("score")(score_answers)
app.command("gate")(command(judge_gate))
app.command("compare")(compare)
app.command("judge")(judge_answers)
app.command("export")(export)
app.command("import")(import_)
app.command("check")(check)
app.add_typer(safety, name="safety")
app.add_typer(suite, name="suite")
app.add_typer(endpoints, name="endpoint")


@app.command("run")
@model_options(EvaluationConfig, defaults={"shots": None, "max_tokens": None})
def run(
    checkpoint: Annotated[
        str | None, typer.Option(help="Name or id; a run's name means its newest checkpoint.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Endpoint: its name, or the address of a registered API.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model of the API at --endpoint; an address that is not registered is registered.")
    ] = "",
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable of the workers that holds the key of a new API.")
    ] = None,
    benchmark: Annotated[
        str, typer.Option(help="Dataset: name, or name@version. A task finds its own when left out.")
    ] = "",
    task: Annotated[
        str | None, typer.Option(help="Task or group: a name (see `roundhouse task list`), or a YAML file.")
    ] = None,
    *,
    options: FieldValues,
    again: Annotated[
        bool, typer.Option("--again", help="Run again even if a finished evaluation has the same settings.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the scores.")] = False,
) -> None:
    """Score a checkpoint or an endpoint on a benchmark, or a checkpoint on any dataset with text in it."""
    ctx = get_context()
    shots, max_tokens = options["shots"], options["max_tokens"]
    endpoint = find_or_add(ctx, endpoint, model=model, key_env=key_env) if endpoint is not None else None
    group = find_group(ctx, task) if task else None
    definition = read_task_option(ctx, task, shots=shots, max_tokens=max_tokens) if task and group is None else None
    values = options | {"shots": 0 if task else shots or 0, "max_tokens": max_tokens or 64, "task": definition}
    config = EvaluationConfig(**values)
    if group is not None:
        given = (shots, max_tokens)
        run_group(
            ctx,
            group,
            checkpoint=checkpoint,
            endpoint=endpoint,
            benchmark=benchmark,
            config=config,
            given=given,
            wait=wait,
        )
        return
    plan = plan_evaluation(ctx, benchmark=benchmark, config=config)
    if definition is None and config.kind == "auto":
        suggested = suggest_task(ctx, resolve_benchmark(ctx, benchmark, task=None))
        if suggested is not None:
            note(f"Scored by its rows' kind. A suite or the page would use its task: --task {suggested.name}")
    if checkpoint is not None:
        subject, version = resolve_checkpoint(ctx, checkpoint), resolve_benchmark(ctx, benchmark, task=definition)
        cut, cap = describe_cuts(ctx, subject, version, plan, config), describe_cap(ctx, subject, plan, config)
        for words in filter(None, (cut, cap)):
            note(words)
    evaluation = launch_evaluation(
        ctx, checkpoint=checkpoint, endpoint=endpoint, benchmark=benchmark, config=config, person=LOCAL, again=again
    )
    if evaluation.reused:
        note("An evaluation with the same settings exists or is running; --again runs another.")
    if wait and evaluation.job_id:
        wait_for_job(ctx, evaluation.job_id)
        evaluation = get_evaluation(ctx, evaluation.id)
    emit(evaluation_data(evaluation), text=evaluation_text(evaluation))


@app.command("loglikelihood")
def loglikelihood(
    checkpoint: Annotated[str, typer.Option(help="Name or id, or a folder that holds one.")],
    file: Annotated[Path, typer.Option(help='JSONL of {"context": text, "continuation": text}.')],
) -> None:
    """Compute the log-likelihood of each continuation, in nats, and whether greedy decoding generates it."""
    ctx = get_context()
    job = wait_for_job(ctx, launch_loglikelihoods(ctx, checkpoint=checkpoint, file=file, person=LOCAL).id)
    items = read_loglikelihoods(ctx, job.id)
    lines = [
        f"{item['sum_logprob']:12.5f}  {item['tokens']:5d} tokens  {'greedy' if item['greedy'] else ''}".rstrip()
        for item in items
    ]
    emit({"items": items}, text="\n".join(lines))


@app.command("list")
def list_(
    checkpoint: Annotated[str | None, typer.Option(help="Only evaluations of one checkpoint or endpoint.")] = None,
) -> None:
    """List evaluations, newest first."""
    evaluations = [e for e in list_evaluations(get_context()) if checkpoint in (None, e.checkpoint, e.subject_id)]
    emit(
        {"evaluations": [evaluation_data(e) for e in evaluations]},
        text="\n\n".join(map(evaluation_text, evaluations)) or "No evaluations yet.",
    )


@app.command("power")
@model_options(EvaluationConfig, only=("kind", "limit"))
def power(
    benchmark: Annotated[str, typer.Option(help="Dataset: name, or name@version.")], *, options: Mapping[str, object]
) -> None:
    """Say which difference between two checkpoints a benchmark can detect, before anything runs."""
    plan = plan_evaluation(get_context(), benchmark=benchmark, config=EvaluationConfig(**options))
    if plan.power is None:
        raise InvalidInput(
            "The power of a comparison of texts is not known before they are scored.",
            remedy="Choose a benchmark of items.",
        )
    source = f"measured in {plan.power.measured_pairs} pairs" if plan.power.measured_pairs else "planned"
    difference = "no difference" if (least := plan.power.detectable) is None else f"a difference of {least:.4f}"
    lines = [
        f"{plan.items} items detect {difference} in {percent(plan.power.power)} of cases",
        f"discordance {plan.power.discordance:.3f} ({source}), design effect {plan.power.design_effect:.2f}",
        *(f"a difference of {difference:g} needs {items} items" for difference, items in plan.power.items_for),
    ]
    data = {**asdict(plan.power), "items_for": [{"difference": d, "items": n} for d, n in plan.power.items_for]}
    emit(data, text="\n".join(lines))


def evaluation_data(evaluation: EvaluationView) -> dict[str, Any]:
    """Return an evaluation as the command line's JSON."""
    return {
        "evaluation": evaluation.id,
        "checkpoint": None if evaluation.endpoint else evaluation.checkpoint,
        "endpoint": evaluation.endpoint.name if evaluation.endpoint else None,
        "benchmark": evaluation.benchmark,
        "kind": evaluation.kind.value,
        "status": evaluation.status.value,
        "job": evaluation.job_id,
        "scores": [
            {
                "metric": score.metric,
                **({"subgroup": score.subgroup} if score.subgroup else {}),
                **score_data(score),
            }
            for score in evaluation.scores
        ],
        "facts": evaluation.facts.model_dump(exclude_unset=True),
        "settings": evaluation.settings,
        "fingerprint": evaluation.fingerprint,
    }


def evaluation_text(evaluation: EvaluationView) -> str:
    """Return an evaluation as lines for a terminal."""
    task = f", task {evaluation.config.task.name}" if evaluation.config.task else ""
    lines = [
        f"{evaluation.benchmark}{task} on {evaluation.checkpoint}: {status_word(evaluation.status)} ({evaluation.id})"
    ]
    for score in evaluation.scores:
        interval = "" if score.low is None or score.high is None else f"  [{score.low:.4f}, {score.high:.4f}]"
        label = score_name(score.metric) + (f", {score.subgroup}" if score.subgroup else "")
        lines.append(f"  {label:<24} {score.value:10.4f}{interval}  n = {score.n}")
    return "\n".join(lines)


def find_group(ctx: Context, task: str) -> TaskGroup | None:
    """Return the group of a name or a YAML file; None if it is a single task. Raises NotFound, InvalidInput."""
    definition = find_task(ctx, read_task_text(task) or task)
    return definition if isinstance(definition, TaskGroup) else None


def run_group(
    ctx: Context,
    group: TaskGroup,
    *,
    checkpoint: str | None,
    endpoint: str | None,
    benchmark: str,
    config: EvaluationConfig,
    given: tuple[int | None, int | None],
    wait: bool,
) -> None:
    """Run a group's tasks on a checkpoint or an endpoint as a suite, and print its result. `given`: few-shot examples
    and max new tokens for all.
    """
    shots, max_tokens = given
    tasks = [task.adjusted(shots=shots, max_tokens=max_tokens) for task in tasks_of(ctx, group)]
    suite = suite_of_group(ctx, group, tasks=tasks, config=config, person=LOCAL, benchmark=benchmark)
    note(
        f"{group.shown_title}: {len(tasks)} tasks as the suite “{suite.name}”; roundhouse eval suite show {suite.id}"
        " shows its results."
    )
    run_and_emit(ctx, suite.id, checkpoint=checkpoint, endpoint=endpoint, wait=wait)
