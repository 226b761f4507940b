"""`roundhouse eval suite`: create, run and show suites of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit, interval_data, note, read_text, score_data
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.evaluation.suites import parse_suite, read_suite
from backend.domain.jobs.states import status_word
from backend.errors import InvalidInput, NotFound
from backend.services.context import LOCAL, Context
from backend.services.evaluation.suites import (
    SuiteResultView,
    SuiteView,
    create_suite,
    get_result,
    get_suite,
    list_suite_results,
    list_suites,
    run_suite,
)

app = CommandGroup(no_args_is_help=True, help="Named lists of benchmarks, run together on a checkpoint or an endpoint.")


@app.command("create")
def create(
    file: Annotated[Path | None, typer.Argument(help="YAML with `name` and `members`.")] = None,
    name: Annotated[str, typer.Option(help="Name, where no file is given.")] = "",
    benchmark: Annotated[
        list[str] | None, typer.Option(help="A member with default settings; may be repeated.")
    ] = None,
) -> None:
    """Create a suite from a YAML file, or from --name and --benchmark."""
    if (file is None) == (not benchmark):
        raise InvalidInput("A suite needs either a file or --name with --benchmark.", remedy="Give one of the two.")
    config = read_suite(read_text(file)) if file else parse_suite({"name": name, "members": list(benchmark or ())})
    suite = create_suite(get_context(), config, person=LOCAL)
    emit(
        describe_suite(suite),
        text=f"Created {suite.name} ({suite.id}) with {len(suite.config.members)} members.",
    )


@app.command("list")
def list_() -> None:
    """List the suites."""
    suites = list_suites(get_context())
    lines = [
        f"{suite.name}  {len(suite.config.members)} members, run {suite.num_results} times ({suite.id})"
        for suite in suites
    ]
    emit(
        {"suites": [describe_suite(suite) for suite in suites]},
        text="\n".join(lines) or "No suites yet.",
    )


@app.command("run")
def run(
    suite: Annotated[str, typer.Argument(help="Name or id.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Name or id; a run's name means its newest checkpoint.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Endpoint: its name, or that of a registered API.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the scores.")] = False,
) -> None:
    """Run a suite on a checkpoint or an endpoint. What was measured before with the same settings is not measured
    again.
    """
    run_and_emit(get_context(), suite, checkpoint=checkpoint, endpoint=endpoint, wait=wait)


def run_and_emit(ctx: Context, suite: str, *, checkpoint: str | None, endpoint: str | None, wait: bool) -> None:
    """Run a suite on a checkpoint or an endpoint and print its result."""
    result = run_suite(ctx, suite, checkpoint=checkpoint, endpoint=endpoint, person=LOCAL)
    for member in result.members:
        if wait and member.evaluation and member.evaluation.is_active and member.evaluation.job_id:
            note(f"{member.evaluation.benchmark} on {result.checkpoint}")
            wait_for_job(ctx, member.evaluation.job_id)
    result = get_result(ctx, result.id)
    emit(describe_result(result), text=format_result(result))


@app.command("show")
def show(suite: Annotated[str, typer.Argument(help="A suite's name or id, or the id of a result.")]) -> None:
    """Show a suite with its results, or one result."""
    ctx = get_context()
    try:
        result = get_result(ctx, suite)
    except NotFound:
        view = get_suite(ctx, suite)
        results = list_suite_results(ctx, suite_id=view.id)
        data = {**describe_suite(view), "results": [describe_result(one) for one in results]}
        emit(data, text="\n\n".join([view.config.to_yaml().rstrip(), *map(format_result, results)]))
        return
    emit(describe_result(result), text=format_result(result))


def describe_suite(suite: SuiteView) -> dict[str, object]:
    """Return a suite as the command line's JSON."""
    members = [
        {"benchmark": one.benchmark, "config": one.config.model_dump(mode="json")} for one in suite.config.members
    ]
    return {"suite": suite.id, "name": suite.name, "description": suite.config.description, "members": members}


def describe_result(result: SuiteResultView) -> dict[str, object]:
    """Return a suite result as the command line's JSON."""
    return {
        "result": result.id,
        "suite": result.suite,
        "checkpoint": None if result.endpoint else result.checkpoint,
        "endpoint": result.endpoint.name if result.endpoint else None,
        "step": result.step,
        "finished": result.num_finished,
        **{
            name: score_data(average) if average else None
            for name, average in attributes_of(result, "macro", "micro", "centred").items()
        },
        "left_out": list(result.left_out),
        **attributes_of(result, "seconds", "tokens"),
        "members": [
            {
                "benchmark": one.member.benchmark,
                "evaluation": one.evaluation.id if one.evaluation else None,
                "status": one.evaluation.status.value if one.evaluation else None,
                "error": one.error or (one.evaluation.error.cause if one.evaluation else None) or None,
                "scores": [
                    {
                        **attributes_of(s, "metric", "subgroup", "value", "stderr"),
                        "interval": interval_data(s),
                        "n": s.n,
                    }
                    for s in (one.evaluation.scores if one.evaluation else ())
                ],
            }
            for one in result.members
        ],
    }


def format_result(result: SuiteResultView) -> str:
    """Return a suite result as lines for a terminal."""
    lines = [
        f"{result.suite} on {result.checkpoint}: {result.num_finished} of {len(result.members)} finished ({result.id})"
    ]
    for one in result.members:
        score = one.evaluation.main_score if one.evaluation else None
        state = one.error or (status_word(one.evaluation.status) if one.evaluation else "waiting")
        lines.append(
            f"  {one.member.benchmark:<28} " + (f"{score.metric} {score.value:.4f}  n = {score.n}" if score else state)
        )
    for name, average in (("centred", result.centred), ("macro", result.macro), ("micro", result.micro)):
        if average is not None:
            error = "" if average.stderr is None else f" ± {average.stderr:.4f}"
            lines.append(f"  {name} average {average.value:.4f}{error}")
    if result.left_out:
        lines.append(f"  left out of the averages: {', '.join(result.left_out)}")
    return "\n".join(lines)
