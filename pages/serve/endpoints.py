"""Endpoints: deploy a checkpoint under a name, watch its replicas, stop it, and see how a client calls it."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.serving.deployments import EndpointView, deploy, list_deployments, list_endpoints, stop_endpoint
from pages.components import routes
from pages.components.frame import empty_state, errors_shown, page_frame, plain

BADGES: dict[str, tuple[Literal["green", "blue", "red", "gray"], str]] = {
    "ready": ("green", "check_circle"),
    "starting": ("blue", "hourglass_top"),
    "failing": ("red", "error"),
    "stopped": ("gray", "stop_circle"),
}


def draw_deploy(ctx: Context, person: Person) -> None:
    """Draw the form that deploys."""
    checkpoints = [c for c in list_checkpoints(ctx) if c.folder]
    wanted = st.query_params.get("checkpoint")
    if not checkpoints:
        empty_state("There is nothing to deploy yet: train a network or add a base.", page=routes.LAUNCH, label="Launch a run")
        return
    with st.expander("Deploy a checkpoint", icon=":material/rocket_launch:", expanded=bool(wanted) or not list_endpoints(ctx)):
        ids = [c.id for c in checkpoints]
        names = {c.id: c.name for c in checkpoints}
        chosen = st.selectbox(
            "Checkpoint", ids, index=ids.index(wanted) if wanted in ids else 0, format_func=names.__getitem__, key="deploy_checkpoint"
        )
        left, right = st.columns([3, 1])
        name = left.text_input("Endpoint name", key="deploy_name", placeholder="storyteller", help="Clients put it in `model=`.")
        replicas = right.number_input("Replicas", 1, 64, 1, key="deploy_replicas", help="Each holds the weights once and uses one core.")
        taken = {endpoint.name: endpoint for endpoint in list_endpoints(ctx, include_stopped=False)}
        if name in taken:
            st.info(f"{plain(name)} serves {plain(taken[name].checkpoint_name)} now. It goes on until the new checkpoint is ready.")
        label = "Deploy" if name else "Name the endpoint first"
        if st.button(label, type="primary", disabled=not name, key="deploy", icon=":material/rocket_launch:"):
            with errors_shown():
                deploy(ctx, checkpoint_id=chosen, name=name.strip(), num_replicas=int(replicas), person=person)
                st.query_params.pop("checkpoint", None)
                st.toast(f"Deploying {plain(name)}", icon=":material/rocket_launch:")
                st.rerun()


def draw_endpoint(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw one endpoint with its replicas and its actions."""
    colour, icon = BADGES[endpoint.state]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(plain(endpoint.name), anchor=False, width="content")
            st.badge(endpoint.state, color=colour, icon=f":material/{icon}:")
            st.space("stretch")
            if endpoint.stopped_at is None:
                st.page_link(routes.PLAYGROUND, label="Chat", icon=":material/chat:", query_params={"endpoint": endpoint.name})
                if st.button("Stop", key=f"stop_{endpoint.name}", icon=":material/stop_circle:"):
                    with errors_shown():
                        stop_endpoint(ctx, endpoint.name, person=person)
                        st.rerun()
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption("Serves", width="content")
            st.page_link(
                routes.CHECKPOINTS,
                label=plain(endpoint.checkpoint_name),
                icon=":material/deployed_code:",
                query_params={"checkpoint": endpoint.checkpoint_id},
            )
        if endpoint.stopped_at is None:
            grid = st.grid(4, min_column_width=190)
            grid.metric("Replicas ready", f"{endpoint.num_ready} of {len(endpoint.replicas)}")
            grid.metric("Answering now", sum(int(r.gauges.get("running") or 0) for r in endpoint.replicas))
            grid.metric("Tokens per second", f"{sum(float(r.gauges.get('tokens_per_second') or 0) for r in endpoint.replicas):.0f}")
            grid.metric("Requests, last hour", endpoint.requests_last_hour, help=f"{endpoint.tokens_last_hour} tokens generated")
        for number, replica in enumerate(endpoint.replicas, 1):
            if replica.problem and replica.status != "ready":
                st.warning(f"Replica {number}, start {replica.attempt}: {plain(replica.problem)}", icon=":material/error:")
        draw_history_and_use(ctx, endpoint)


def draw_history_and_use(ctx: Context, endpoint: EndpointView) -> None:
    """Draw what stood behind the name before, and how to call it."""
    key = "rh-..." if ctx.sign_in else "local"
    with st.expander("Call it, and its history", key=f"more_{endpoint.name}"):
        st.code(
            "from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{ctx.gateway_url}/v1", api_key="{key}")\n'
            "stream = client.chat.completions.create(\n"
            f'    model="{endpoint.name}", messages=[{{"role": "user", "content": "Hello"}}], stream=True\n'
            ")\nfor chunk in stream:\n    if chunk.choices:\n"
            '        print(chunk.choices[0].delta.content or "", end="")',
            language="python",
        )
        st.dataframe(
            [
                {"Deployed": deployed, "Stopped": stopped, "Checkpoint": checkpoint}
                for deployed, stopped, _, checkpoint in list_deployments(ctx, endpoint.name)
            ],
            hide_index=True,
            width="stretch",
            key=f"history_{endpoint.name}",
        )


@st.fragment(run_every=2)
def draw_endpoints(ctx: Context, person: Person) -> None:
    """Draw every endpoint, fresh every two seconds; the running ones first."""
    endpoints = sorted(list_endpoints(ctx), key=lambda e: (e.stopped_at is not None, e.name))
    if not endpoints:
        empty_state("No endpoints yet. A deployed checkpoint answers at `/v1` like any OpenAI-compatible model, and in the playground.")
    for endpoint in endpoints:
        with errors_shown():
            draw_endpoint(ctx, person, endpoint)


with page_frame("Endpoints", "What is deployed, and how to call it.") as (context_, person_):
    draw_deploy(context_, person_)
    draw_endpoints(context_, person_)
