"""`roundhouse eval gate`: judge a checkpoint against a champion. `roundhouse gate`: save gates and require them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.exit_status import DONE, FAILED
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, emit
from backend.domain.evaluation.gate_config import GateBenchmark, GateConfig, GateVerdict
from backend.domain.evaluation.gates import describe_procedure
from backend.domain.wording import percent
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.evaluation.gates import (
    ENDPOINT_PREFIX,
    GateOutcome,
    GateView,
    create_gate,
    delete_gate,
    get_gate,
    judge,
    judge_config,
    list_gates,
    release_endpoint,
    report_of,
    require_gate,
)

app = CommandGroup(no_args_is_help=True)
INCONCLUSIVE = 3
"""Exit status of a gate that can't tell; 0 is PASS, 1 is FAIL, 2 stays misuse."""
EXIT_STATUS = {GateVerdict.PASS: DONE, GateVerdict.FAIL: FAILED, GateVerdict.INCONCLUSIVE: INCONCLUSIVE}

ChampionOption = Annotated[
    str | None, typer.Option(help="Checkpoint, or endpoint:NAME: the one that it serves, or a registered API.")
]
BenchmarksOption = Annotated[
    list[str] | None,
    typer.Option("--benchmark", help="Dataset, its metric and margin if need be: facts:acc_norm=0.03. Repeatable."),
]


@model_options(GateConfig)
def gate(
    name: Annotated[
        str | None, typer.Argument(help="A saved gate; without it the options below say what to show.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="The candidate: name or id.")] = "",
    endpoint: Annotated[str, typer.Option(help="The candidate: an endpoint, or a registered API.")] = "",
    champion: ChampionOption = None,
    benchmark: BenchmarksOption = None,
    *,
    options: Mapping[str, object],
) -> None:
    """Judge a checkpoint or an endpoint: PASS (exit 0), FAIL (1) or INCONCLUSIVE (3), with the items that would settle
    it.
    """
    if bool(checkpoint) == bool(endpoint):
        raise InvalidInput(
            "A gate judges a checkpoint or an endpoint.",
            remedy="Name it with --checkpoint or --endpoint.",
            field="checkpoint",
        )
    candidate = checkpoint or f"{ENDPOINT_PREFIX}{endpoint}"
    ctx = get_context()
    if name is not None:
        if champion or benchmark:
            raise InvalidInput(
                "A saved gate has its own champion and benchmarks.", remedy="Leave --champion and --benchmark out."
            )
        outcome = judge(ctx, candidate=candidate, gate=name, person=LOCAL)
    else:
        config = read_config(champion, benchmark, **options)
        outcome = judge_config(ctx, candidate=candidate, config=config)
    emit(report_of(outcome).dump(), text=outcome_text(outcome))
    raise typer.Exit(EXIT_STATUS[outcome.verdict])


@app.command("create")
@model_options(GateConfig)
def create(
    name: str, champion: ChampionOption = None, benchmark: BenchmarksOption = None, *, options: Mapping[str, object]
) -> None:
    """Save a gate; it never changes."""
    config = read_config(champion, benchmark, **options)
    _emit_gate(create_gate(get_context(), name=name, config=config, person=LOCAL))


@app.command("list")
def list_() -> None:
    """List gates with their newest verdict."""
    gates = list_gates(get_context())
    emit(
        {"gates": [gate_data(one) for one in gates]},
        text="\n".join(map(_line, gates)) or "No gates yet.",
    )


@app.command("show")
def show(name: str) -> None:
    """Show a gate with its verdicts."""
    _emit_gate(get_gate(get_context(), name))


@app.command("require")
def require(name: str, endpoint: Annotated[str, typer.Option(help="Name of the endpoint.")]) -> None:
    """Let an endpoint accept only checkpoints that pass the gate."""
    _emit_gate(require_gate(get_context(), name, endpoint=endpoint, person=LOCAL))


@app.command("release")
def release(name: str, endpoint: Annotated[str, typer.Option(help="Name of the endpoint.")]) -> None:
    """Let an endpoint accept checkpoints without the gate."""
    _emit_gate(release_endpoint(get_context(), name, endpoint=endpoint, person=LOCAL))


@app.command("delete")
def delete(name: str) -> None:
    """Delete a gate with its verdicts."""
    delete_gate(get_context(), name, person=LOCAL)
    emit({"deleted": name}, text=f"Deleted {name}.")


def read_config(champion: str | None, benchmarks: list[str] | None, **settings: Any) -> GateConfig:
    """Return the gate that the options describe. Raises InvalidInput without champion or benchmark, or for an invalid
    margin.
    """
    if not champion or not benchmarks:
        missing = "champion" if not champion else "benchmark"
        raise InvalidInput(
            f"A gate needs a {missing}.",
            remedy=f"Name it with --{missing}, or give the name of a saved gate.",
            field=missing,
        )
    return GateConfig(champion=champion, benchmarks=tuple(map(read_benchmark, benchmarks)), **settings)


def read_benchmark(text: str) -> GateBenchmark:
    """Read `facts`, `facts@2:acc_norm` or `facts:acc_norm=0.03`."""
    rest, _, margin = text.partition("=")
    name, _, metric = rest.partition(":")
    try:
        return GateBenchmark(benchmark=name, metric=metric or None, margin=float(margin) if margin else None)
    except ValueError as error:
        raise InvalidInput(
            f"--benchmark {text}: write NAME, NAME:METRIC or NAME:METRIC=MARGIN.", field="benchmark"
        ) from error


def gate_data(view: GateView) -> dict[str, object]:
    """Return a gate as the command line's JSON."""
    return {
        "gate": view.name,
        "procedure": describe_procedure(view.config),
        "config": view.config.model_dump(mode="json"),
        "endpoints": list(view.endpoints),
        "results": [{**result.report.dump(), "created_at": result.created_at.isoformat()} for result in view.results],
    }


def outcome_text(outcome: GateOutcome) -> str:
    """Return an outcome as lines for a terminal."""
    lines = [f"{outcome.verdict}: {outcome.candidate} against {outcome.champion}", *outcome.reason.split("; ")]
    if outcome.decision.power is not None:
        lines.append(f"Power to pass at the expected difference: {percent(outcome.decision.power)}")
    return "\n".join([*lines, outcome.decision.procedure])


def _emit_gate(view: GateView) -> None:
    emit(gate_data(view), text=f"{_line(view)}\n{describe_procedure(view.config)}")


def _line(view: GateView) -> str:
    newest = f"{view.results[0].checkpoint}: {view.results[0].verdict}" if view.results else "not judged yet"
    required = f", required by {', '.join(view.endpoints)}" if view.endpoints else ""
    return f"{view.name:<24} {newest}{required}"
