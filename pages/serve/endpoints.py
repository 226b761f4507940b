"""Endpoints: deploy a checkpoint, watch its replicas, stop, start and delete, and copy the client's code."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from backend.domain.serving.deployment import SafetyRequirement
from backend.domain.serving.names import suggest_endpoint_name
from backend.domain.wording import percent, plural
from backend.errors import Conflict
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.context import Context, Person
from backend.services.health import GATEWAY, HEALTH
from backend.services.serving.aliases import list_aliases
from backend.services.serving.deployments import delete_endpoint, deploy, start_endpoint, stop_endpoint
from backend.services.serving.drafts import list_drafts
from backend.services.serving.endpoints import EndpointView, list_endpoints, list_revisions
from backend.services.serving.memory import DeploymentMemory, deployment_memory
from backend.services.serving.owners import why_not_delete
from backend.services.serving.requirements import DEFAULT_REQUIREMENT, check_requirement, required_gates, requirement_of
from pages.components import routes
from pages.components.choices import by_identity
from pages.components.frame import (
    empty_state,
    errors_shown,
    live_part,
    page_frame,
    plain,
    show_problem,
    warn_unknown,
    with_code,
)
from pages.components.links import row_link
from pages.components.numbers import draw_number, form_button, number_form
from pages.components.serving.adapters import draw_adapters
from pages.components.serving.aliases import draw_aliases
from pages.components.serving.operation import draw_operation
from pages.components.serving.rollout import (
    draw_canary,
    draw_canary_form,
    draw_options,
    draw_rollback,
    draw_rollout,
    draw_scale,
    draw_swap,
)
from pages.components.serving.shadow import draw_shadow, draw_shadow_form
from pages.components.serving.speed import draw_speed
from pages.components.serving.traffic_dataset import draw_traffic_dataset
from pages.components.serving.upstream_form import draw_upstream, draw_upstream_form
from pages.components.tables import draw_table
from pages.components.words import ago, size

BADGES: dict[str, tuple[Literal["green", "blue", "red", "gray"], str]] = {
    "ready": ("green", "check_circle"),
    "updating": ("blue", "published_with_changes"),
    "starting": ("blue", "hourglass_top"),
    "failing": ("red", "error"),
    "unreachable": ("red", "cloud_off"),
    "asleep": ("gray", "bedtime"),
    "stopped": ("gray", "stop_circle"),
}
SOURCES = ["Checkpoint", "Server with the OpenAI API"]
VERDICTS: dict[str | None, tuple[Literal["green", "red", "orange", "gray"], str, str]] = {
    "PASS": ("green", "check_circle", "Passed"),
    "FAIL": ("red", "cancel", "Failed"),
    "INCONCLUSIVE": ("orange", "help", "Inconclusive"),
    None: ("gray", "help", "Not judged yet"),
}


def draw_deploy(ctx: Context, person: Person) -> None:
    """Draw the deployment form of a checkpoint, or of another server."""
    checkpoints = {c.id: c for c in list_checkpoints(ctx, ready=True)}
    requested = st.query_params.get("checkpoint")
    if requested and requested not in checkpoints:
        cure = "It may have been deleted or archived. Choose another."
        show_problem(f"There is no checkpoint “{requested}” that can be deployed.", cure)
    endpoints = list_endpoints(ctx)
    with st.expander("Deploy", icon=":material/rocket_launch:", expanded=bool(requested) or not endpoints):
        source = st.segmented_control("Source", SOURCES, default=SOURCES[0], required=True, key="deploy_source")
        if source != SOURCES[0]:
            draw_upstream_form(ctx, person)
        elif checkpoints:
            draw_deploy_form(ctx, person, checkpoints, endpoints, requested)
        else:
            empty_state(
                "There is nothing to deploy yet: train a model or add a base.",
                page=routes.LAUNCH,
                label="Launch a run",
            )


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
    subject = st.selectbox(
        "Checkpoint",
        ids,
        index=ids.index(requested) if requested in checkpoints else 0,
        format_func=by_identity("deploy_checkpoint", ids, lambda subject: label_subject(subject, checkpoints, aliases)),
        key="deploy_checkpoint",
        help=(
            "An endpoint that is deployed from an alias follows it: when the alias moves, its new checkpoint is"
            " deployed."
        ),
    )
    chosen, alias = aliases.get(subject, subject), subject if subject in aliases else None
    suggest_name(checkpoints[chosen].name, [endpoint.name for endpoint in endpoints])
    fields = st.grid(2, min_column_width=200)
    name = fields.text_input("Endpoint name", key="deploy_name", help="Clients send it as `model=`.").strip()
    replicas = int(
        draw_number(
            fields,
            "Replicas",
            1,
            64,
            1,
            key="deploy_replicas",
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
            "Holds for later deployments."
        ),
    )
    is_refused = draw_requirements(ctx, name, chosen, (required or DEFAULT_REQUIREMENT) if gate else None)
    options = draw_options(list_drafts(ctx, chosen))
    draw_replica_memory(
        deployment_memory(ctx, chosen, precision=options.precision, draft_id=options.draft, context=options.context),
        replicas,
    )
    draw_speed(ctx, person, chosen)
    serving = {endpoint.name: endpoint for endpoint in endpoints if endpoint.stopped_at is None}
    if name in serving:
        st.info(f"{plain(name)} serves {plain(serving[name].checkpoint_name)}; its replicas are replaced one by one.")
    missing = {"enter a name": not name, "meet the requirements first": bool(name) and is_refused}
    if form_button("Deploy", missing, key="deploy", icon="rocket_launch"):
        with errors_shown():
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
            st.query_params.pop("checkpoint", None)
            st.toast(f"Deploying {plain(name)}", icon=":material/rocket_launch:")
            st.rerun()


def label_subject(subject: str, checkpoints: dict[str, CheckpointView], aliases: dict[str, str]) -> str:
    """Return the label of a checkpoint, or of an alias with the checkpoint that holds it."""
    return f"{subject} · {checkpoints[aliases[subject]].name}" if subject in aliases else checkpoints[subject].name


def draw_requirements(ctx: Context, name: str, checkpoint_id: str, safety: SafetyRequirement | None) -> bool:
    """Draw what an endpoint of this name requires and whether the checkpoint meets it; return whether the safety gate
    refuses it.
    """
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
        f"Free {'on a GPU of' if free.device == 'cuda' else 'on'} {free.host}: {size(free.free_bytes)}."
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


def draw_endpoint(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw one endpoint with its replicas and its actions."""
    state = "unreachable" if endpoint.num_ready and HEALTH.fails(GATEWAY) else endpoint.state
    colour, icon = BADGES[state]
    is_stopped = endpoint.stopped_at is not None
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(plain(endpoint.name), anchor=False, width="content")
            st.badge(state, color=colour, icon=f":material/{icon}:")
            st.space("stretch")
            if is_stopped:
                with st.container(horizontal=True, width="content"):
                    draw_stopped_actions(ctx, person, endpoint)
            else:
                draw_endpoint_actions(ctx, person, endpoint)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption("Served" if is_stopped else "Serves", width="content")
            if endpoint.config.upstream is not None:
                st.badge(plain(endpoint.checkpoint_name), icon=":material/cloud:", color="gray")
            else:
                row_link(
                    endpoint.checkpoint_name,
                    page=routes.CHECKPOINTS,
                    query={"checkpoint": endpoint.checkpoint_id},
                    icon="deployed_code",
                    key=f"served_{endpoint.name}",
                )
            if endpoint.config.alias is not None:
                st.badge(f"follows {plain(endpoint.config.alias)}", icon=":material/label:", color="violet")
            if endpoint.stopped_at is not None:
                st.caption(f"stopped {ago(endpoint.stopped_at, now=ctx.now())}", width="content")
        draw_upstream(endpoint, now=ctx.now())
        if endpoint.config.precision_check is not None:
            st.caption(plain(endpoint.config.precision_check.describe()))
        elif endpoint.config.precision != "float32":
            st.caption(f"{plain(endpoint.config.precision)}: not measured yet")
        for arithmetic in endpoint.arithmetics:
            st.caption(f"Decoder layers: {plain(arithmetic)}")
        if endpoint.draft_name is not None:
            st.caption(plain(describe_draft(endpoint)))
        if not is_stopped and (words := endpoint.config.scaling.describe()):
            st.caption(words)
        if not is_stopped:
            draw_canary(ctx, person, endpoint)
            draw_shadow(ctx, person, endpoint)
            draw_rollout(endpoint)
            draw_endpoint_gauges(endpoint)
            draw_adapters(ctx, person, endpoint)
            draw_operation(ctx, person, endpoint)
        draw_history(ctx, endpoint)


def describe_draft(endpoint: EndpointView) -> str:
    """Return the draft of an endpoint and how much of it was accepted."""
    if endpoint.acceptance is None:
        return f"Draft: {endpoint.draft_name} · nothing drafted yet"
    return (
        f"Draft: {endpoint.draft_name} · {percent(endpoint.acceptance)} of {endpoint.drafted_tokens:,} drafted tokens"
        " accepted"
    )


def draw_endpoint_actions(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the ways to its other pages, and its changes."""
    st.page_link(
        routes.LINEAGE, label="Lineage", icon=":material/account_tree:", query_params={"endpoint": endpoint.name}
    )
    if endpoint.writes:
        st.page_link(routes.PLAYGROUND, label="Chat", icon=":material/chat:", query_params={"endpoint": endpoint.name})
    with st.container(horizontal=True, width="content"):  # wraps as one
        draw_endpoint_changes(ctx, person, endpoint)


def draw_endpoint_changes(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw what changes a serving endpoint."""
    if endpoint.config.upstream is None:
        draw_scale(ctx, person, endpoint)
        draw_swap(ctx, person, endpoint)
    if endpoint.writes:  # a reward model's scores are neither thumbed nor compared
        draw_canary_form(ctx, person, endpoint)
        draw_shadow_form(ctx, person, endpoint)
    draw_rollback(ctx, person, endpoint)
    with st.popover("Stop", icon=":material/stop_circle:", key=f"stop_menu_{endpoint.name}"):
        st.markdown(f"Stop {plain(endpoint.name)}? Clients get an error until it is started again.")
        if st.button("Stop it", type="primary", key=f"stop_{endpoint.name}"):
            with errors_shown():
                stop_endpoint(ctx, endpoint.name, person=person)
                st.rerun()


def draw_stopped_actions(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw Start, and Delete with its confirmation."""
    if st.button("Start", icon=":material/play_arrow:", key=f"start_{endpoint.name}"):
        with errors_shown():
            start_endpoint(ctx, endpoint.name, person=person)
            st.rerun()
    if reason := why_not_delete(ctx, endpoint.name, person=person):
        st.button(
            "Delete", icon=":material/delete:", disabled=True, help=plain(reason), key=f"delete_menu_{endpoint.name}"
        )
        return
    with st.popover("Delete", icon=":material/delete:", key=f"delete_menu_{endpoint.name}"):
        st.markdown(f"Delete {plain(endpoint.name)} and its history? The checkpoint and conversations stay.")
        if st.button("Delete it", type="primary", key=f"delete_{endpoint.name}"):
            with errors_shown():
                delete_endpoint(ctx, endpoint.name, person=person)
                st.toast(f"Deleted {plain(endpoint.name)}.", icon=":material/delete:")
                st.rerun()


def draw_endpoint_gauges(endpoint: EndpointView) -> None:
    """Draw load and rate, and the cause where a replica does not start."""
    if endpoint.config.upstream is not None and endpoint.canary is None:
        for replica in endpoint.replicas:
            if replica.problem:
                cure = "Start that server; it is checked again by itself. At another address, connect it again."
                st.warning(f"Health check: {plain(replica.problem)}  \n{cure}", icon=":material/error:")
        return
    grid = st.grid(4, min_column_width=140)  # of the four of the last hour below
    grid.metric(
        "Replicas ready", "asleep" if endpoint.state == "asleep" else f"{endpoint.num_ready} of {endpoint.target}"
    )
    grid.metric("Running requests", sum(r.gauges.running for r in endpoint.replicas))
    grid.metric("Tokens per second", f"{sum(r.gauges.tokens_per_second for r in endpoint.replicas):.0f}")
    for replica in endpoint.replicas:
        if replica.problem and replica.status != "ready":
            which = f"Replica {replica.number} of revision {replica.revision}, attempt {replica.attempt}"
            cause = f"{which}: {plain(replica.problem)}"
            cure = (
                replica.remedy
                or f"Read its log with `roundhouse endpoint logs {endpoint.name}`, or swap to another checkpoint."
            )
            st.warning(f"{cause}  \n{with_code(cure)}", icon=":material/error:")


def draw_history(ctx: Context, endpoint: EndpointView) -> None:
    """Draw the deployments of a name, newest first."""
    with st.expander("History", icon=":material/history:", key=f"history_{endpoint.name}"):
        revisions = list_revisions(ctx, endpoint.name)
        rows = [
            {
                "Revision": row.revision,
                "Checkpoint": row.checkpoint_name,
                "Replicas": row.num_replicas,
                "Deployed": row.created_at,
                "Stopped": row.stopped_at or "serving",
                "Note": row.note or row.role,
            }
            for row in revisions
        ]
        draw_table(rows, key=f"deployments_{endpoint.name}", alt=f"Deployments of {endpoint.name}")
        events = [{"When": event.at, "Change": event.text} for row in revisions for event in reversed(row.events)]
        if events:
            draw_table(
                events, key=f"scalings_{endpoint.name}", alt=f"Changes of the number of replicas of {endpoint.name}"
            )


@live_part(2)
def draw_endpoints(ctx: Context, person: Person) -> None:
    """Draw every endpoint, running ones first, refreshed every two seconds."""
    named = st.query_params.get("name")
    endpoints = sorted(list_endpoints(ctx), key=lambda e: (e.name != named, e.stopped_at is not None, e.name))
    if named and all(endpoint.name != named for endpoint in endpoints):
        warn_unknown("endpoint", named, instead="all are shown")
    if not endpoints:
        empty_state(
            "No endpoints yet. A deployed checkpoint answers at `/v1` like any OpenAI-compatible model, and in the"
            " playground."
        )
    for endpoint in endpoints:
        with errors_shown():
            draw_endpoint(ctx, person, endpoint)


with page_frame("Endpoints", "Deployed checkpoints, and how clients call them.") as (context_, person_):
    draw_deploy(context_, person_)
    draw_traffic_dataset(context_, person_)
    draw_endpoints(context_, person_)
    draw_aliases(context_, person_)
