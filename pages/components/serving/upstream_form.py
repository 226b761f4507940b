"""The form that serves a model on another server, and what an endpoint's card says of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import streamlit as st
import yaml

from backend.domain.serving.names import check_endpoint_name
from backend.domain.serving.upstream import LIMITS, Upstream
from backend.domain.wording import format_usd
from backend.errors import InvalidInput
from backend.services.context import Context, Person
from backend.services.serving.endpoints import EndpointView
from backend.services.serving.upstreams import connect_upstream
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, plain
from pages.components.numbers import form_button, mark_refused, number_form
from pages.components.words import ago


def draw_endpoint_name(place: Any, *, key: str) -> str:
    """Draw the field of an endpoint's name in a `number_form`, with what is wrong with it; return the name."""
    with place.container(gap="small"):
        name = st.text_input("Endpoint name", key=key, help="Clients send it as `model=`.").strip()
        mark_refused("Endpoint name", check_endpoint_name, name)
    return name


@number_form
def draw_upstream_form(ctx: Context, person: Person) -> None:
    """Draw address, model, key and limits of another server, and the button that connects it."""
    if person.id is not None:
        st.caption(
            "The server calls the address and sends it a key, so the operator connects it: `roundhouse endpoint"
            " connect`."
        )
        return
    name = draw_endpoint_name(st, key="upstream_name")
    fields = draw_fields(Upstream, key="upstream", columns=3)
    with st.expander("Limits and prices", icon=":material/tune:", key="upstream_options"):
        fields |= draw_fields(Upstream, key="upstream", columns=2, group=LIMITS.group or "")
    with st.expander("As YAML", icon=":material/data_object:", key="upstream_yaml"):
        st.code(
            yaml.safe_dump({"name": name, **_changed(fields)}, sort_keys=False, allow_unicode=True), language="yaml"
        )
        st.caption("`roundhouse endpoint connect --config FILE` reads it.")
    st.caption("Connecting sends up to four requests of one token; then one more at every health check.")
    missing = {
        "enter a name": not name,
        "enter the address": not fields["url"],
        "enter the model": not fields["model"],
    }
    if form_button("Connect", missing, key="upstream_connect", icon="add_link"):
        with errors_shown(), st.spinner("Asking the server for a token"):
            connect_upstream(ctx, name=name, upstream=Upstream.read(fields), person=person)
            st.toast(f"{plain(name)} is ready", icon=":material/check_circle:")
            st.rerun()


def _changed(fields: Mapping[str, object]) -> dict[str, object]:
    try:
        return Upstream.read(fields).changed()
    except InvalidInput:
        return {name: value for name, value in fields.items() if value not in (None, "")}


def draw_upstream(endpoint: EndpointView, *, now: datetime) -> None:
    """Draw where an endpoint's model is, and its last health check."""
    upstream = endpoint.config.upstream
    if upstream is None:
        return
    offered = [label for label, is_offered in upstream.capabilities.model_dump().items() if is_offered]
    parts = [f"{upstream.url} ({', '.join(offered)})"]
    check = endpoint.replicas[0].gauges if endpoint.replicas else None
    if check is not None and check.check_s is not None and check.checked_at is not None:
        parts.append(f"one token in {check.check_s * 1000:,.0f} ms, {ago(check.checked_at, now=now)}")
    if upstream.input_price is not None and upstream.output_price is not None:
        prices = [format_usd(price, is_price=True) for price in (upstream.input_price, upstream.output_price)]
        parts.append(f"{prices[0]} in, {prices[1]} out per million tokens")
    st.caption(plain(" · ".join(parts)))
