"""Shadow of an endpoint: the form that starts it, its report and its end."""

from __future__ import annotations

import streamlit as st

from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.serving.endpoints import EndpointView, list_endpoints
from backend.services.serving.shadows import read_shadow, start_shadow, stop_shadow
from pages.components import routes
from pages.components.choices import choose_one
from pages.components.frame import plain, rerun_after
from pages.components.links import row_link
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.serving.rollout import choose_successor, label_beside

OWN, OTHER = "Checkpoint", "Endpoint"
NOT_COPIED = (
    "Not copied: requests for several answers or with probabilities, those that the endpoint did not answer, those that"
    " arrive before the shadow is ready, and copies beyond 64 that wait. Copies that wait are counted once they are"
    " answered."
)


@number_form
def draw_shadow_form(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the form that starts a shadow; nothing while one runs."""
    if endpoint.shadow is not None:
        return
    name = endpoint.name
    with st.popover("Shadow", icon=":material/content_copy:", key=f"shadow_menu_{name}"):
        st.caption("Copies of requests are answered a second time and compared. Clients never see these answers.")
        others = [view.name for view in list_endpoints(ctx, include_stopped=False) if view.name != name]
        kind = choose_one("Answered by", [OWN, OTHER] if others else [OWN], default=OWN, key=f"shadow_kind_{name}")
        chosen: str | None
        if kind == OTHER:
            chosen = st.selectbox("Endpoint", others, key=f"shadow_endpoint_{name}")
        else:
            checkpoints = label_beside(ctx, list_checkpoints(ctx, ready=True), served=endpoint.checkpoint_id)
            chosen = choose_successor(ctx, checkpoints, key=f"shadow_checkpoint_{name}", endpoint=endpoint)
        percent = draw_number(st, "Percent of requests", 0.1, 100.0, 10.0, key=f"shadow_percent_{name}", is_whole=False)
        if (
            st.button(
                "Start shadow", type="primary", key=f"shadow_{name}", disabled=chosen is None or bool(wrong_numbers())
            )
            and chosen
        ):
            with rerun_after():
                own, other = (None, chosen) if kind == OTHER else (chosen, None)
                start_shadow(ctx, name, checkpoint_id=own, endpoint=other, percent=percent, person=person)


def draw_shadow(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the shadow that runs, how its answers compare, and its end."""
    shadow = endpoint.shadow
    if shadow is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", key=f"shadow_row_{endpoint.name}"):
        st.badge(f"shadow {shadow.percent:g} %", icon=":material/content_copy:", color="violet")
        key = f"shadow_of_{endpoint.name}"
        if shadow.endpoint:
            row_link(shadow.endpoint, page=routes.ENDPOINTS, query={"name": shadow.endpoint}, key=key)
        else:
            row_link(
                shadow.checkpoint_name, page=routes.CHECKPOINTS, query={"checkpoint": shadow.checkpoint_id}, key=key
            )
        report = read_shadow(ctx, endpoint.name)
        is_starting = not shadow.endpoint and not shadow.num_ready
        st.caption(
            "starting" if is_starting and not report.requests else plain(report.describe()),
            width="content",
            help=NOT_COPIED,
        )
        st.space("stretch")
        if st.button("Stop shadow", icon=":material/close:", key=f"stop_shadow_{endpoint.name}"):
            with rerun_after():
                stop_shadow(ctx, endpoint.name, person=person)
