"""Endpoints: the form that deploys, every endpoint in a row, and with `?name=` the page of one."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from backend.domain.serving.deployment import DeploymentOptions, SafetyRequirement
from backend.domain.serving.engines import ENGINE_TITLES, SERVERS
from backend.domain.serving.names import suggest_endpoint_name
from backend.domain.wording import percent, plural
from backend.errors import Conflict, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.context import Context, Person
from backend.services.serving.aliases import list_aliases
from backend.services.serving.deployments import deploy, describe_changes
from backend.services.serving.drafts import list_drafts
from backend.services.serving.endpoints import EndpointView, list_endpoints, resolve_endpoint
from backend.services.serving.memory import DeploymentMemory, deployment_memory
from backend.services.serving.monitoring.traffic import TrafficPoint, endpoint_totals, find_window
from backend.services.serving.requirements import DEFAULT_REQUIREMENT, check_requirement, required_gates, requirement_of
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import choose_from, choose_one
from pages.components.forms import draw_refusal, refusals_marked
from pages.components.frame import (
    empty_state,
    live_part,
    no_checkpoint_state,
    page_frame,
    plain,
    show_problem,
    warn_unknown,
    with_code,
)
from pages.components.links import back_link, row_link
from pages.components.numbers import draw_number, form_button, number_form
from pages.components.serving.aliases import draw_aliases
from pages.components.serving.endpoint import draw_endpoint_page, draw_endpoint_state
from pages.components.serving.requests import draw_traffic_dataset
from pages.components.serving.rollout import draw_options
from pages.components.serving.speed import draw_speed
from pages.components.serving.upstream_form import draw_endpoint_name, draw_upstream_form
from pages.components.tables import MISSING, WidgetTable
from pages.components.words import size

TABLE = WidgetTable(
    "endpoints",
    {
        "Name": 2.2,
        "State": 1.3,
        "Serves": 2.2,
        "Requests, 1 h": 1.1,
        "Failed": 0.9,
        "First token p95": 1.2,
        "Tokens/s": 0.9,
    },
)
SOURCES = ["Checkpoint", "Server with the OpenAI API"]
VERDICTS: dict[str | None, tuple[Literal["green", "red", "orange", "gray"], str, str]] = {
    "PASS": ("green", "check_circle", "Passed"),
    "FAIL": ("red", "cancel", "Failed"),
    "INCONCLUSIVE": ("orange", "help", "Inconclusive"),
    None: ("gray", "help", "Not judged yet"),
}


def draw_deploy(ctx: Context, person: Person) -> None:
    """Draw the deployment form of a checkpoint, or of another server."""
    ready = {c.id: c for c in list_checkpoints(ctx, ready=True)}
    checkpoints = {id_: ready[id_] for id_ in label_usable_first(ctx, ready.values())}
    requested = st.query_params.get("checkpoint")
    if requested and requested not in checkpoints and requested not in {alias.name for alias in list_aliases(ctx)}:
        cure = "It may have been deleted or archived. Choose another."
        show_problem(f"There is no checkpoint “{requested}” that can be deployed.", cure)
    endpoints = list_endpoints(ctx)
    with st.expander("Deploy", icon=":material/rocket_launch:", expanded=bool(requested) or not endpoints):
        source = choose_one("Source", SOURCES, key="deploy_source")
        if source != SOURCES[0]:
            draw_upstream_form(ctx, person)
        elif checkpoints:
            draw_deploy_form(ctx, person, checkpoints, endpoints, requested)
        else:
            no_checkpoint_state("There is nothing to deploy yet: train a model or add a base.")


@number_form
def draw_deploy_form(
    ctx: Context,
    person: Person,
    checkpoints: dict[str, CheckpointView],
    endpoints: list[EndpointView],
    requested: str | None,
) -> None:
    """Draw checkpoint, name and number of replicas, the memory they need, and the button."""
    aliases = {a.name: a.checkpoint_id for a in list_aliases(ctx) if a.checkpoint_id and a.checkpoint_id in checkpoints}
    ids = [*checkpoints, *aliases]
    subject = choose_from(
        "Checkpoint",
        ids,
        words=lambda subject: label_subject(subject, checkpoints, aliases),
        key="deploy_checkpoint",
        value=requested or "",
        help="An endpoint that is deployed from an alias follows it: when the alias moves, its new checkpoint is"
        " deployed.",
    )
    chosen, alias = aliases.get(subject, subject), subject if subject in aliases else None
    called = alias.partition("@")[0] if alias else checkpoints[chosen].name  # after what the endpoint will follow
    suggest_name(called, [endpoint.name for endpoint in endpoints])
    fields = st.grid(2, min_column_width=200)
    name = draw_endpoint_name(fields, key="deploy_name")
    previous = next((endpoint for endpoint in endpoints if endpoint.name == name), None)
    key = f"deploy_{name}" if previous else "deploy"
    replicas = int(
        draw_number(
            fields,
            "Replicas",
            1,
            64,
            (previous.target if previous else 1) or 1,
            key=f"{key}_replicas",
            help="Each uses one core. On CPUs, those of one machine share the weights.",
        )
    )
    required = requirement_of(ctx, name)
    gate = st.checkbox(
        "Require the safety gate",
        value=required is not None,
        disabled=required is not None,
        key=f"deploy_gate_{name}",
        help=(
            "Refuse a checkpoint whose change towards unsafe, measured against its base, is not shown to be small. "
            "Applies to later deployments too."
        ),
    )
    is_refused = draw_requirements(ctx, name, chosen, (required or DEFAULT_REQUIREMENT) if gate else None)
    drafts = list_drafts(ctx, chosen)
    options = draw_options(ctx, drafts, previous=previous, key=key)
    if options.engine in SERVERS:
        st.caption(
            f"Memory of {ENGINE_TITLES[options.engine]} is not estimated; the endpoint's page shows what it takes."
        )
    else:
        memory = deployment_memory(
            ctx, chosen, precision=options.precision, draft_id=options.draft, context=options.context
        )
        draw_replica_memory(memory, replicas)
    draw_speed(ctx, person, chosen)
    if previous:
        serves = f"{plain(name)} serves {plain(previous.checkpoint_name)}; its replicas are replaced one by one."
        changes = describe_changes(previous, options, replicas, drafts)
        stays = f"Changes: {plain(changes)}." if changes else "Its options stay."
        st.info(stays if previous.stopped_at else f"{serves} {stays}")
    missing = {"enter a name": not name, "meet the requirements first": bool(name) and is_refused}
    if form_button("Deploy", missing, key="deploy", icon="rocket_launch"):
        with refusals_marked(options.model_dump(), key=key):
            deploy(
                ctx,
                checkpoint_id=chosen,
                name=name,
                num_replicas=replicas,
                config=options.changed(),
                require=(required or DEFAULT_REQUIREMENT) if gate else None,
                alias=alias,
                person=person,
            )
            st.query_params.from_dict({"name": name})
            st.toast(f"Deploying {plain(name)}", icon=":material/rocket_launch:")
            st.rerun()
    draw_refusal(DeploymentOptions, key=key)


def label_subject(subject: str, checkpoints: dict[str, CheckpointView], aliases: dict[str, str]) -> str:
    """Return the label of a checkpoint, or of an alias with the checkpoint that holds it."""
    return f"{subject} · {checkpoints[aliases[subject]].name}" if subject in aliases else checkpoints[subject].name


def draw_requirements(ctx: Context, name: str, checkpoint_id: str, safety: SafetyRequirement | None) -> bool:
    """Draw what this endpoint requires and whether the checkpoint meets it; return whether its safety is refused."""
    gates = required_gates(ctx, name, checkpoint_id=checkpoint_id)
    if not gates and safety is None:
        return False
    refusal: Conflict | None = None
    st.markdown("**Requirements**")
    if safety is not None:
        try:
            check_requirement(ctx, checkpoint_id, name=name, requirement=safety)
        except Conflict as conflict:
            refusal = conflict
        verdict = "PASS" if refusal is None else "FAIL"
        query = {"checkpoint": checkpoint_id}
        _draw_requirement(
            verdict, "Safety gate", page=routes.CHECKPOINTS, query=query, icon="shield", key="deploy_safety"
        )
    for gate in gates:
        query = {"gate": gate.gate_id}
        _draw_requirement(
            gate.verdict,
            f"Gate {gate.name}",
            page=routes.EVALUATIONS,
            query=query,
            icon="rule",
            key=f"gate_{gate.gate_id}",
        )
    if gates:
        st.caption("Gates are judged again when you deploy.")
    if refusal is not None:
        st.warning(f"{with_code(refusal.message)} {with_code(refusal.remedy or '')}", icon=":material/shield:")
    return refusal is not None


def _draw_requirement(
    verdict: str | None, label: str, *, page: str, query: dict[str, str], icon: str, key: str
) -> None:
    color, mark, words = VERDICTS[verdict]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(words, color=color, icon=f":material/{mark}:")
        row_link(label, page=page, query=query, icon=icon, key=key)


def suggest_name(checkpoint: str, taken: list[str]) -> None:
    """Fill in a free name, unless the visitor typed one."""
    suggestion = suggest_endpoint_name(checkpoint, taken)
    if st.session_state.get("deploy_name") in (None, "", st.session_state.get("deploy_suggestion")):
        st.session_state["deploy_name"] = suggestion
    st.session_state["deploy_suggestion"] = suggestion


def draw_replica_memory(memory: DeploymentMemory, replicas: int) -> None:
    """Draw the memory that the replicas need and the free memory of the serving machine."""
    need, free = memory.replica, memory.free
    if need is None:
        needs = "Memory needed: unknown, since the size of the model is."
    else:
        cache = "unknown" if need.cache_bytes is None else size(need.cache_bytes)
        runtime = (
            "the CUDA context comes on top" if need.runtime_bytes is None else f"runtime {size(need.runtime_bytes)}"
        )
        parts = f"weights {size(need.weight_bytes)}, KV cache {cache}, {runtime}"
        needs = f"Memory per replica: about {size(need.total_bytes)} ({parts})."
        if need.shared_bytes:
            needs = f"Memory of the first replica: about {size(need.total_bytes)} ({parts}). "
            needs += f"Each further one on the same machine shares the weights: about {size(need.further_bytes)}."
        if need.preparing_bytes > 1.1 * need.total_bytes:
            needs += f" While the first one prepares the weights: up to {size(need.preparing_bytes)}."
    has = (
        f"Free {'on a GPU of' if free.device == 'cuda' else 'on'} {free.machine}: {size(free.free_bytes)}."
        if free
        else "No serving worker reports."
    )
    st.caption(plain(f"{needs} {has}"))
    if memory.fits(replicas) is False:
        st.warning(
            plain(
                f"{plural(replicas, 'replica')} may not fit: choose fewer replicas, a shorter context or a smaller"
                " checkpoint, or stop another endpoint."
            ),
            icon=":material/memory_alt:",
        )


@live_part(5)
def draw_endpoints(ctx: Context) -> None:
    """Draw every endpoint in a row, running ones first, refreshed every five seconds."""
    endpoints = sorted(list_endpoints(ctx), key=lambda endpoint: (endpoint.stopped_at is not None, endpoint.name))
    if not endpoints:
        empty_state(
            "No endpoints yet. A deployed checkpoint answers at `/v1` like any OpenAI-compatible model, and in the"
            " playground."
        )
        return
    totals = endpoint_totals(ctx, find_window("1 h"))
    with TABLE.frame():
        for endpoint in endpoints:
            draw_endpoint_row(endpoint, totals.get(endpoint.name))


def draw_endpoint_row(endpoint: EndpointView, total: TrafficPoint | None) -> None:
    """Draw name, state, what is served, and the traffic of the last hour."""
    name, state, serves, requests, errors, first, speed = TABLE.row(endpoint.name)
    with name:
        row_link(endpoint.name, page=routes.ENDPOINTS, query={"name": endpoint.name}, key=f"endpoint_{endpoint.name}")
    with state:
        draw_endpoint_state(endpoint)
    canary = "" if endpoint.canary is None else f", {endpoint.canary.percent:g} % {endpoint.canary.checkpoint_name}"
    serves.write(plain(f"{endpoint.checkpoint_name}{canary}"))
    if total is None or not total.requests:
        requests.write("0")
        for cell in (errors, first, speed):
            cell.write(MISSING)
        return
    requests.write(f"{total.requests:,}")
    share = total.error_share
    errors.write(MISSING if share is None else f":red[{percent(share)}]" if total.lost else "0")
    p95 = total.ttft_ms[1]
    first.write(MISSING if p95 is None else plain(f"{p95:,.0f} ms"))
    speed.write(plain(f"{total.tokens_per_s:,.1f}"))


def draw_named(ctx: Context, person: Person, name: str) -> bool:
    """Draw the page of an endpoint, or of the one that answers for an alias; return whether there is one."""
    try:
        endpoint = resolve_endpoint(ctx, name)
    except NotFound:
        warn_unknown("endpoint", name, instead="all are shown")
        return False
    back_link("All endpoints", page=routes.ENDPOINTS, key="endpoints_back")
    draw_endpoint_page(ctx, person, endpoint.name, alias=name if name != endpoint.name else None)
    return True


with page_frame("Endpoints", "Deployed checkpoints, and how clients call them.", objects=["name"]) as (
    context_,
    person_,
):
    draw_traffic_dataset(context_, person_)
    named_ = st.query_params.get("name")
    if not named_ or not draw_named(context_, person_, named_):
        draw_deploy(context_, person_)
        draw_endpoints(context_)
        draw_aliases(context_, person_)
