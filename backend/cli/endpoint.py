"""`roundhouse endpoint`: deploy, scale, roll back, list, logs, start, stop, delete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, emit, note
from backend.cli.serving import shadow
from backend.cli.serving.adapter import app as adapter_app
from backend.cli.serving.bench import bench
from backend.cli.serving.connect import connect
from backend.cli.serving.traffic import dataset, request_log, requests
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.evaluation.safety.margins import MARGIN, check_margin
from backend.domain.json_values import FieldValues
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.deployment import DeploymentOptions, SafetyRequirement
from backend.domain.serving.engines import EngineName
from backend.domain.serving.names import is_alias_name
from backend.errors import InvalidInput, Unavailable
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.jobs.jobs import read_log
from backend.services.jobs.workers import has_worker
from backend.services.serving.aliases import explain_alias
from backend.services.serving.autoscaling import change_scaling
from backend.services.serving.canaries import abort_canary, change_canary, promote_canary, start_canary
from backend.services.serving.deployments import (
    delete_endpoint,
    deploy,
    describe_changes,
    next_options,
    rollback_endpoint,
    scale_endpoint,
    start_endpoint,
    stop_endpoint,
)
from backend.services.serving.endpoints import (
    CanaryView,
    EndpointView,
    find_view,
    get_endpoint,
    list_endpoints,
    list_revisions,
)
from backend.services.serving.requirements import check_requirement, require_safety
from backend.services.serving.speed import find_speed, launch_speed_probe
from backend.services.serving.upstreams import resolve_deployable

app = CommandGroup(no_args_is_help=True)
app.command("bench")(bench)
app.command("requests")(requests)
app.command("connect")(connect)
app.add_typer(adapter_app, name="adapter")
app.command("log")(request_log)
app.command("dataset")(dataset)
app.add_typer(
    shadow.app, name="shadow", help="Copies of requests to a second checkpoint or endpoint, compared and never shown."
)
READY_TIMEOUT_S = 300.0
SCALED = ("min_replicas", "max_replicas", "target_queue_s", "cool_down_s", "sleep_after_minutes")
WaitFlag = Annotated[bool, typer.Option(help="Return when a replica is ready.")]


def endpoint_data(endpoint: EndpointView) -> dict[str, object]:
    """Return an endpoint as the command line's JSON."""
    return {
        "endpoint": endpoint.name,
        "state": endpoint.state,
        "checkpoint": endpoint.checkpoint_name,
        "alias": endpoint.config.alias,
        "revision": endpoint.revision,
        "policy": endpoint.config.policy,
        "precision": endpoint.config.precision,
        "precision_check": endpoint.config.precision_check.model_dump() if endpoint.config.precision_check else None,
        "draft": (
            {
                "checkpoint": endpoint.draft_name,
                "drafted_tokens": endpoint.drafted_tokens,
                "acceptance": endpoint.acceptance,
            }
            if endpoint.draft_name
            else None
        ),
        "replicas_wanted": endpoint.target,
        "scaling": endpoint.config.scaling.describe() or None,
        "replicas_ready": endpoint.num_ready,
        "replicas": [
            {**attributes_of(r, "id", "revision", "role", "status", "device", "problem"), **r.gauges.dump()}
            for r in endpoint.replicas
        ],
        "rollout": asdict(endpoint.rollout) if endpoint.rollout else None,
        "canary": asdict(endpoint.canary) | {"traffic": endpoint.canary.traffic.dump()} if endpoint.canary else None,
        "shadow": asdict(endpoint.shadow) if endpoint.shadow else None,
        "upstream": endpoint.config.upstream.model_dump(mode="json") if endpoint.config.upstream else None,
    }


@app.command("deploy")
@model_options(DeploymentOptions, partial=True)
def deploy_(
    checkpoint: Annotated[
        str, typer.Option(help="Name of the checkpoint, or an alias, which the endpoint then follows.")
    ],
    name: Annotated[str, typer.Option(help="Name of the endpoint: what clients put in model=.")],
    replicas: Annotated[
        int | None, typer.Option(min=1, help="By default as many as the earlier revision has, at first 1.")
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Options that are not given get their defaults, not the earlier values.")
    ] = False,
    require_safety_gate: Annotated[
        bool,
        typer.Option("--require-safety", help="Refuse a checkpoint that does not pass the safety gate, now and later."),
    ] = False,
    margin: Annotated[float, typer.Option(help="Safety gate: largest change towards unsafe that passes.")] = MARGIN,
    *,
    options: FieldValues,
    wait: WaitFlag = True,
) -> None:
    """Deploy a checkpoint to N replicas; those of an earlier deployment are replaced one by one, and its options stay
    unless others are given. Needs a running installation.
    """
    ctx = get_context()
    check_margin(margin)
    require = SafetyRequirement(margin=margin) if require_safety_gate else None
    subject = resolve_checkpoint(ctx, checkpoint)
    if require is not None:
        check_requirement(ctx, subject.id, name=name, requirement=require)
    _require_worker(ctx)
    alias = checkpoint if is_alias_name(checkpoint) else None
    if draft := options.get("draft"):
        options["draft"] = resolve_checkpoint(ctx, draft).id
    previous = find_view(ctx, name)
    deployed = deploy(
        ctx,
        checkpoint_id=subject.id,
        name=name,
        num_replicas=replicas,
        config=next_options(None if defaults else previous, options).changed(),
        require=require,
        alias=alias,
        follows="draft" not in options,
        person=LOCAL,
    )
    if previous and (words := describe_changes(previous, deployed.config, deployed.target, deployed.draft_names)):
        note(f"Changed from revision {previous.revision}: {words}")
    _emit_started(ctx, deployed, wait=wait)


@app.command("probe")
def probe(checkpoint: Annotated[str, typer.Argument(help="Name or id of a checkpoint, or an alias.")]) -> None:
    """Measure how fast one replica of a checkpoint answers 1, 8 and 32 users, before it is deployed. Needs a running
    installation.
    """
    ctx = get_context()
    _require_worker(ctx)
    subject = resolve_checkpoint(ctx, checkpoint)
    wait_for_job(ctx, launch_speed_probe(ctx, subject.id, person=LOCAL).id)
    speed = find_speed(ctx, subject.id)
    if speed is None:
        raise Unavailable("The probe was stopped before it measured anything.", remedy="Run it again.")
    lines = []
    for load in speed.loads:
        first_token = "" if load.ttft_ms is None else f"  first token {load.ttft_ms:,.0f} ms"
        lines.append(f"{load.users:>3} at once  {load.tokens_per_s:9,.1f} tokens/s{first_token}")
    emit(
        {"checkpoint": subject.name, "measured_at": speed.measured_at.isoformat(), **speed.result.dump()},
        text="\n".join([*lines, f"{speed.conditions}."]),
    )


@app.command("scale")
@model_options(DeploymentOptions, only=SCALED, names={"min_replicas": "--min", "max_replicas": "--max"}, partial=True)
def scale(
    name: str,
    number: Annotated[int | None, typer.Argument(min=1, help="Number of replicas from now on.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="The same, as an option.")] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Keep the number as it is: neither scale by itself nor sleep.")
    ] = False,
    *,
    options: Mapping[str, object],
    wait: Annotated[bool, typer.Option(help="Return when that many are ready.")] = True,
) -> None:
    """Change the number of replicas in place, or the limits between which it follows the queue. Replicas that go finish
    their answers.
    """
    ctx = get_context()
    num_replicas = number if replicas is None else replicas
    given = {**options, "sleep_after_minutes": None} if options.get("sleep_after_minutes") == 0 else options
    if fixed and given:
        raise InvalidInput(
            "--fixed keeps the number of replicas, and excludes limits and sleep.",
            remedy="Leave out --fixed, or the other options.",
            field="fixed",
        )
    if fixed:
        given = {"min_replicas": 1, "max_replicas": None, "sleep_after_minutes": None}
    if num_replicas is None and not given:
        raise InvalidInput(
            "The number of replicas is missing.",
            remedy=f"Write `roundhouse endpoint scale {name} 3`.",
            field="replicas",
        )
    view = change_scaling(ctx, name, person=LOCAL, **given) if given else None
    if num_replicas is not None:
        view = scale_endpoint(ctx, name, num_replicas, person=LOCAL)
    _emit_started(ctx, view or get_endpoint(ctx, name), wait=wait)


@app.command("rollback")
def rollback(
    name: str,
    revision: Annotated[
        int | None, typer.Option("--to", help="Revision to serve again; by default the one before.")
    ] = None,
    wait: WaitFlag = True,
) -> None:
    """Serve an earlier revision again, replica by replica."""
    ctx = get_context()
    _emit_started(ctx, rollback_endpoint(ctx, name, revision=revision, person=LOCAL), wait=wait)
    _note_alias(ctx, name)


def _note_alias(ctx: Context, name: str) -> None:
    """Say what requests to the endpoint's alias get, where it follows one."""
    view = get_endpoint(ctx, name)
    if words := explain_alias(ctx, view.config.alias, served=view.checkpoint_name):
        note(words)


@app.command("history")
def history(name: str) -> None:
    """List the revisions of an endpoint, newest first."""
    rows = list_revisions(get_context(), name)
    lines = []
    for r in rows:
        lines.append(
            f"{r.revision:>3}  {r.created_at:%Y-%m-%d %H:%M}  {r.role:<8} {r.checkpoint_name}"
            f"  {'stopped' if r.stopped_at else 'serving'}{f'  ({r.note})' if r.note else ''}"
        )
        lines += [f"     options: {r.options}"] if r.options else []
        lines += [f"     {event.at:%Y-%m-%d %H:%M}  {event.text}" for event in reversed(r.events)]
    emit({"endpoint": name, "revisions": [asdict(r) for r in rows]}, text="\n".join(lines))


@app.command("logs")
def logs(name: str, last: Annotated[int, typer.Option(min=1, max=10_000, help="Lines per replica.")] = 50) -> None:
    """Show the end of the log of every replica."""
    ctx = get_context()
    replicas = [(r, read_log(ctx, r.job_id, last=last)) for r in get_endpoint(ctx, name).replicas if r.job_id]
    data = [
        {**attributes_of(r, "id", "revision", "status", "problem", "remedy"), "lines": lines} for r, lines in replicas
    ]
    printed: list[str] = []
    for r, lines in replicas:
        printed += [f"--- replica {r.id}, revision {r.revision}, {r.status} ---", *lines]
        if r.problem:
            printed.append(f"It did not start: {r.problem} {r.remedy}".rstrip())
    emit({"endpoint": name, "replicas": data}, text="\n".join(printed) or f"No replica of {name} runs.")


@app.command("canary")
@model_options(CanaryRules, defaults={"percent": None})
def canary(
    name: str,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint, alias or connected model that gets the share.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1)] = 1,
    engine: Annotated[EngineName | None, typer.Option(help="Its engine, where it is another one.")] = None,
    *,
    options: Mapping[str, object],
    promote: Annotated[bool, typer.Option("--promote", help="Replace the stable revision by it.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="End it.")] = False,
    wait: WaitFlag = True,
) -> None:
    """Give a second checkpoint a share of the requests; without --checkpoint, change, promote, abort or show the canary
    that runs.

    The requests of one `user`, else of one key, stay on one side.
    """
    ctx = get_context()
    if sum((checkpoint is not None, promote, abort)) > 1:
        raise InvalidInput("Give one of --checkpoint, --promote and --abort.")
    percent = options["percent"]
    rules = {name: value for name, value in options.items() if name != "percent" or value is not None}
    rules |= {name: rules[name] or None for name in ("abort_error_rate", "vote_alpha")}
    before = get_endpoint(ctx, name).canary
    if promote:
        view = promote_canary(ctx, name, person=LOCAL)
        _note_alias(ctx, name)
    elif abort:
        view = abort_canary(ctx, name, person=LOCAL)
    elif checkpoint is not None:
        _require_worker(ctx)
        subject_id = resolve_deployable(ctx, checkpoint)
        view = start_canary(
            ctx,
            name,
            checkpoint_id=subject_id,
            rules=CanaryRules.read(rules),
            engine=engine,
            num_replicas=replicas,
            person=LOCAL,
        )
        while wait and view.canary and not view.canary.num_ready:
            time.sleep(0.3)
            view = get_endpoint(ctx, name)
    elif percent is not None:
        changed = {
            **(before.traffic.dump() if before else {}),
            "percent": percent,
            **({"step_up": True} if options["step_up"] else {}),
        }
        view = change_canary(ctx, name, rules=CanaryRules.read(changed), person=LOCAL)
    else:
        view = get_endpoint(ctx, name)
    emit(endpoint_data(view), text=_describe_canary(view, before, is_promoted=promote))


def _describe_canary(view: EndpointView, before: CanaryView | None, *, is_promoted: bool) -> str:
    if (shown := view.canary) is not None:
        return f"{shown.checkpoint_name} gets {shown.percent:g} % of {view.name}: {shown.num_ready} ready"
    if before is None:
        return f"{view.name} has no canary."
    if is_promoted:
        return f"{before.checkpoint_name} is promoted: its replicas replace those of {view.name} one by one."
    return f"The canary {before.checkpoint_name} has ended: {view.checkpoint_name} gets all requests to {view.name}."


@app.command("start")
def start(name: str, wait: WaitFlag = True) -> None:
    """Start a stopped endpoint again with its last checkpoint. Needs a running installation."""
    ctx = get_context()
    _require_worker(ctx)
    _emit_started(ctx, start_endpoint(ctx, name, person=LOCAL), wait=wait)


@app.command("list")
def list_() -> None:
    """List endpoints."""
    endpoints = list_endpoints(get_context())
    lines = [f"{e.name:<24} {e.state:<9} {e.num_ready}/{e.target}  {e.checkpoint_name}{_canary(e)}" for e in endpoints]
    emit({"endpoints": [endpoint_data(e) for e in endpoints]}, text="\n".join(lines) or "No endpoints yet.")


@app.command("require")
def require(
    name: str,
    safety: Annotated[bool, typer.Option(help="Whether later deployments must pass the safety gate.")] = True,
    margin: Annotated[float, typer.Option(help="Largest change towards unsafe that passes.")] = MARGIN,
) -> None:
    """Make an endpoint require the safety gate of later deployments, or no longer."""
    require_safety(get_context(), name, margin=margin if safety else None, person=LOCAL)
    data = {"endpoint": name, "require_safety": {"margin": margin} if safety else None}
    emit(data, text=f"{name} {'requires' if safety else 'does not require'} the safety gate.")


@app.command("stop")
def stop(name: str) -> None:
    """Stop an endpoint. Its name and history stay."""
    emit(endpoint_data(stop_endpoint(get_context(), name, person=LOCAL)), text=f"Stopped {name}.")


@app.command("delete")
def delete(name: str) -> None:
    """Delete a stopped endpoint with its history. Conversations stay."""
    delete_endpoint(get_context(), name, person=LOCAL)
    emit({"deleted": name}, text=f"Deleted {name}.")


def _canary(view: EndpointView) -> str:
    return f"  canary {view.canary.checkpoint_name} {view.canary.percent:g} %" if view.canary else ""


def _require_worker(ctx: Context) -> None:
    if not has_worker(ctx, "serve"):
        raise Unavailable(
            "No worker serves the queue `serve`.",
            remedy="Start the installation with `roundhouse up`, or `roundhouse worker` here.",
        )


def _emit_started(ctx: Context, view: EndpointView, *, wait: bool) -> None:
    """Wait until the newest revision answers and has replaced older ones, if requested, and print the endpoint.

    Raises Unavailable where none of its replicas becomes ready.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while wait and not _is_settled(view):
        failing = [
            one for one in view.replicas if one.problem and one.status == "starting" and one.revision == view.revision
        ]
        if failing or time.monotonic() > deadline:
            cause = failing[0].problem.rstrip(".") if failing else f"it was not done within {READY_TIMEOUT_S:.0f} s"
            rest = (
                f" Revision {view.rollout.previous} still answers." if view.rollout and view.rollout.old_ready else ""
            )
            raise Unavailable(
                f"Revision {view.revision} of {view.name!r} did not become ready: {cause}.{rest}",
                remedy=failing[0].remedy if failing else "",
            )
        time.sleep(0.3)
        view = get_endpoint(ctx, view.name)
    note(f"{ctx.gateway_url}/v1, model={view.name}")
    emit(
        endpoint_data(view),
        text=f"{view.name}: {view.state}, {view.num_ready} of {view.target} replicas ready",
    )


def _is_settled(view: EndpointView) -> bool:
    """Return whether the newest revision answers alone. A first deployment needs one replica, a change all."""
    ready = sum(r.status == "ready" and r.revision == view.revision for r in view.replicas)
    return view.rollout is None and ready >= (view.target if view.revision > 1 or ready else 1)
