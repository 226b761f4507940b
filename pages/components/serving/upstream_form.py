"""The form that serves a model on another server, and what an endpoint's card says of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import streamlit as st
import yaml

from backend.domain.serving.upstream import Upstream
from backend.errors import InvalidInput
from backend.services.context import Context, Person
from backend.services.serving.endpoints import EndpointView
from backend.services.serving.upstreams import connect_upstream
from pages.components.frame import errors_shown, plain
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.words import ago


@number_form
def draw_upstream_form(ctx: Context, person: Person) -> None:
    """Draw address, model, key and limits of another server, and the button that connects it."""
    if person.id is not None:
        st.caption(
            "The server calls the address and sends it a key, so the operator connects it: `roundhouse endpoint"
            " connect`."
        )
        return
    grid = st.grid(2, min_column_width=220)
    name = grid.text_input("Endpoint name", key="upstream_name", help="Clients send it as `model=`.").strip()
    fields: dict[str, Any] = {
        "url": grid.text_input("Address", key="upstream_url", placeholder="http://127.0.0.1:8080/v1").strip(),
        "model": (
            grid.text_input(
                "Model at that server", key="upstream_model", placeholder="Qwen/Qwen2.5-7B-Instruct"
            ).strip()
        ),
        "key_env": (
            grid.text_input(
                "Key variable",
                key="upstream_key_env",
                placeholder="None",
                help=(
                    "Name of the environment variable of gateway, workers and pages that holds the key. The key itself"
                    " is not stored."
                ),
            ).strip()
            or None
        ),
    }
    with st.expander("Limits and prices", icon=":material/tune:", key="upstream_options"):
        fields |= _draw_options()
    with st.expander("As YAML", icon=":material/data_object:", key="upstream_yaml"):
        st.code(
            yaml.safe_dump({"name": name, **_changed(fields)}, sort_keys=False, allow_unicode=True), language="yaml"
        )
        st.caption("`roundhouse endpoint connect --config FILE` reads it.")
    st.caption("Connecting sends up to four requests of one token; then one more at every health check.")
    is_incomplete = not (name and fields["url"] and fields["model"])
    if st.button(
        "Connect",
        type="primary",
        icon=":material/add_link:",
        key="upstream_connect",
        disabled=is_incomplete or bool(wrong_numbers()),
    ):
        with errors_shown(), st.spinner("Asking the server for a token"):
            connect_upstream(ctx, name=name, upstream=Upstream.read(fields), person=person)
            st.toast(f"{plain(name)} is ready", icon=":material/check_circle:")
            st.rerun()


def _draw_options() -> dict[str, Any]:
    default = Upstream.model_fields
    grid = st.grid(2, min_column_width=220)
    return {
        "max_requests": int(
            draw_number(grid, "Requests at once", 1, 4096, default["max_requests"].default, key="upstream_max_requests")
        ),
        "check_every_s": draw_number(
            grid,
            "Health check every (s)",
            5.0,
            86400.0,
            default["check_every_s"].default,
            key="upstream_check",
            is_whole=False,
            help="Each asks for one token.",
        ),
        "first_token_s": draw_number(
            grid,
            "First token limit (s)",
            1.0,
            3600.0,
            default["first_token_s"].default,
            key="upstream_first",
            is_whole=False,
        ),
        "answer_limit_s": draw_number(
            grid,
            "Answer limit (s)",
            1.0,
            86400.0,
            default["answer_limit_s"].default,
            key="upstream_limit",
            is_whole=False,
        ),
        "context": draw_number(
            grid,
            "Context length",
            1,
            None,
            key="upstream_context",
            placeholder="As the server says",
            help="In tokens; for the context meter of the playground.",
        ),
        "key_file": (
            grid.text_input(
                "Key file", key="upstream_key_file", placeholder="None", help="Instead of a variable."
            ).strip()
            or None
        ),
        "input_price": _draw_price(grid, "Price of prompt tokens", key="upstream_input_price"),
        "output_price": _draw_price(grid, "Price of answer tokens", key="upstream_output_price"),
    }


def _draw_price(grid: Any, label: str, *, key: str) -> float | None:
    price: float | None = draw_number(
        grid, label, 0.0, None, key=key, is_whole=False, placeholder="Not set", help="US dollars for a million."
    )
    return price


def _changed(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return Upstream.read(fields).changed()
    except InvalidInput:
        return {name: value for name, value in fields.items() if value not in (None, "")}


def draw_upstream(endpoint: EndpointView, *, now: datetime) -> None:
    """Draw where an endpoint's model is, and its last health check."""
    upstream = endpoint.upstream
    if upstream is None:
        return
    offered = [label for label, is_offered in upstream.capabilities.model_dump().items() if is_offered]
    parts = [f"{upstream.url} ({', '.join(offered)})"]
    check = endpoint.replicas[0].gauges if endpoint.replicas else {}
    if check.get("check_s") is not None and check.get("checked_at"):
        parts.append(
            f"one token in {check['check_s'] * 1000:,.0f} ms,"
            f" {ago(datetime.fromisoformat(check['checked_at']), now=now)}"
        )
    if upstream.input_price is not None and upstream.output_price is not None:
        parts.append(f"${upstream.input_price:g} in, ${upstream.output_price:g} out per million tokens")
    st.caption(plain(" · ".join(parts)))
