"""`roundhouse endpoint`: deploy, list, start, stop, delete."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit, note
from backend.domain.evaluation.safety.margins import MARGIN, check_margin
from backend.domain.serving.names import is_alias_name
from backend.errors import Unavailable
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.jobs.workers import has_worker
from backend.services.serving.deployments import delete_endpoint, deploy, start_endpoint, stop_endpoint
from backend.services.serving.endpoints import EndpointView, get_endpoint, list_endpoints
from backend.services.serving.requirements import SafetyRequirement, check_requirement, require_safety

app = typer.Typer(no_args_is_help=True)
READY_TIMEOUT_S = 300.0
WaitFlag = Annotated[bool, typer.Option(help="Return when a replica is ready.")]


def describe(endpoint: EndpointView) -> dict[str, Any]:
    """Return an endpoint as the command line's JSON."""
    return {
        "endpoint": endpoint.name,
        "state": endpoint.state,
        "checkpoint": endpoint.checkpoint_name,
        "alias": endpoint.alias,
        "replicas_ready": endpoint.num_ready,
        "replicas": [{"status": r.status, "device": r.device, "problem": r.problem, **r.gauges} for r in endpoint.replicas],
    }


@app.command("deploy")
@command
def deploy_(
    checkpoint: Annotated[str, typer.Option(help="Name of the checkpoint, or an alias, which the endpoint then follows.")],
    name: Annotated[str, typer.Option(help="Name of the endpoint: what clients put in model=.")],
    replicas: Annotated[int, typer.Option(min=1)] = 1,
    require_safety_gate: Annotated[
        bool, typer.Option("--require-safety", help="Refuse a checkpoint that does not pass the safety gate, now and later.")
    ] = False,
    margin: Annotated[float, typer.Option(help="Safety gate: largest change towards unsafe that passes.")] = MARGIN,
    wait: WaitFlag = True,
    as_json: JsonFlag = False,
) -> None:
    """Deploy a checkpoint to N replicas. Needs a running installation."""
    ctx = get_context()
    check_margin(margin)
    require = SafetyRequirement(margin) if require_safety_gate else None
    subject = resolve_checkpoint(ctx, checkpoint)
    if require is not None:
        check_requirement(ctx, subject.id, name=name, requirement=require)
    _require_worker(ctx)
    alias = checkpoint if is_alias_name(checkpoint) else None
    deployed = deploy(ctx, checkpoint_id=subject.id, name=name, num_replicas=replicas, require=require, alias=alias, person=LOCAL)
    _emit_started(ctx, deployed, wait=wait, as_json=as_json)


@app.command("start")
@command
def start(name: str, wait: WaitFlag = True, as_json: JsonFlag = False) -> None:
    """Start a stopped endpoint again with its last checkpoint. Needs a running installation."""
    ctx = get_context()
    _require_worker(ctx)
    _emit_started(ctx, start_endpoint(ctx, name, person=LOCAL), wait=wait, as_json=as_json)


@app.command("list")
@command
def list_(as_json: JsonFlag = False) -> None:
    """List endpoints."""
    endpoints = list_endpoints(get_context())
    lines = [f"{e.name:<24} {e.state:<9} {e.num_ready}/{len(e.replicas)}  {e.checkpoint_name}" for e in endpoints]
    emit({"endpoints": [describe(e) for e in endpoints]}, as_json=as_json, text="\n".join(lines) or "No endpoints yet.")


@app.command("require")
@command
def require(
    name: str,
    safety: Annotated[bool, typer.Option(help="Whether later deployments must pass the safety gate.")] = True,
    margin: Annotated[float, typer.Option(help="Largest change towards unsafe that passes.")] = MARGIN,
    as_json: JsonFlag = False,
) -> None:
    """Make an endpoint require the safety gate of later deployments, or no longer."""
    require_safety(get_context(), name, margin=margin if safety else None, person=LOCAL)
    data = {"endpoint": name, "require_safety": {"margin": margin} if safety else None}
    emit(data, as_json=as_json, text=f"{name} {'requires' if safety else 'does not require'} the safety gate.")


@app.command("stop")
@command
def stop(name: str, as_json: JsonFlag = False) -> None:
    """Stop an endpoint. Its name and history stay."""
    emit(describe(stop_endpoint(get_context(), name, person=LOCAL)), as_json=as_json, text=f"Stopped {name}.")


@app.command("delete")
@command
def delete(name: str, as_json: JsonFlag = False) -> None:
    """Delete a stopped endpoint with its history. Conversations stay."""
    delete_endpoint(get_context(), name, person=LOCAL)
    emit({"deleted": name}, as_json=as_json, text=f"Deleted {name}.")


def _require_worker(ctx: Context) -> None:
    if not has_worker(ctx, "serve"):
        raise Unavailable(
            "No worker serves the queue `serve`.", remedy="Start the installation with `roundhouse up`, or `roundhouse worker` here."
        )


def _emit_started(ctx: Context, view: EndpointView, *, wait: bool, as_json: bool) -> None:
    """Wait for the first ready replica if requested, and print the endpoint. Raises Unavailable where none becomes ready."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while wait and view.num_ready == 0:
        problems = [r.problem for r in view.replicas if r.problem]
        if problems or time.monotonic() > deadline:
            cause = problems[0] if problems else f"none answered within {READY_TIMEOUT_S:.0f} s"
            raise Unavailable(f"No replica of {view.name!r} became ready: {cause}.")
        time.sleep(0.3)
        view = get_endpoint(ctx, view.name)
    note(f"{ctx.gateway_url}/v1, model={view.name}")
    emit(describe(view), as_json=as_json, text=f"{view.name}: {view.state}, {view.num_ready} of {len(view.replicas)} replicas ready")
