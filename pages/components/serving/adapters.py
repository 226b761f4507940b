"""LoRA adapters on an endpoint's card: those that it serves, and the form that adds one."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.services.context import Context, Person
from backend.services.serving.adapters import (
    add_adapter,
    list_adapter_checkpoints,
    list_adapters,
    remove_adapter,
)
from backend.services.serving.endpoints import EndpointView
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.confirm import draw_confirmed
from pages.components.frame import plain, rerun_after
from pages.components.links import row_link


def draw_adapters(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the adapters beside an endpoint's base; nothing for another server's model, or where no adapter was trained
    on the base.
    """
    if endpoint.config.upstream is not None:
        return
    adapters = list_adapters(ctx, endpoint.name)
    checkpoints = {view.id: view.name for view in list_adapter_checkpoints(ctx, endpoint)}
    if not adapters and not checkpoints:
        return
    title = f"Adapters ({len(adapters)})" if adapters else "Adapters"
    with st.expander(title, icon=":material/layers:", key=f"adapters_{endpoint.name}"):
        for adapter in adapters:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"`{adapter.model}`", width="content")
                query, key = {"checkpoint": adapter.checkpoint_id}, f"adapter_of_{adapter.model}"
                row_link(adapter.checkpoint_name, page=routes.CHECKPOINTS, query=query, key=key)
                st.space("stretch")
                draw_confirmed(
                    "Unload",
                    f"Requests for `{adapter.model}` are refused from now on. The adapter's checkpoint stays.",
                    partial(remove_adapter, ctx, endpoint.name, adapter.name, person=person),
                    key=f"adapter_unload_{adapter.model}",
                    icon="eject",
                )
        if checkpoints:
            _draw_form(ctx, person, endpoint, checkpoints)


def _draw_form(ctx: Context, person: Person, endpoint: EndpointView, checkpoints: dict[str, str]) -> None:
    grid = st.grid(2, min_column_width=200)
    chosen = choose_from(
        "Adapter",
        checkpoints,
        key=f"adapter_checkpoint_{endpoint.name}",
        help="Trained by LoRA on the checkpoint that this endpoint serves.",
        place=grid,
    )
    name = grid.text_input(
        "Name", key=f"adapter_name_{endpoint.name}", help=f"Clients send `{endpoint.name}:NAME` as `model=`."
    ).strip()
    if st.button("Load", icon=":material/add:", key=f"adapter_load_{endpoint.name}", disabled=not name):
        with rerun_after():
            add_adapter(ctx, endpoint.name, name, checkpoint_id=chosen, person=person)
            st.toast(f"{plain(endpoint.name)}:{plain(name)} is served", icon=":material/layers:")
