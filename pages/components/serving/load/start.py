"""Form that starts a load test."""

from __future__ import annotations

import streamlit as st

from backend.domain.json_values import FieldValues
from backend.domain.serving.load import LoadConfig
from backend.domain.validation import read_values
from backend.domain.wording import format_duration
from backend.services.context import Context, Person
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.load_tests import read_arrivals, start_load_test
from pages.components.choices import choose_one
from pages.components.forms import draw_fields
from pages.components.frame import plain, rerun_after
from pages.components.numbers import number_form, wrong_numbers

CLOSED, POISSON, TRACE = "Users (closed loop)", "Rate (open loop)", "Arrivals from a file (open loop)"
LOADS = {
    CLOSED: "Each user sends a request when the last one has ended.",
    POISSON: "Requests arrive at random (Poisson), whether or not earlier ones have ended.",
    TRACE: "Requests arrive at recorded times.",
}
TARGETS = {"Gateway and replicas": ("gateway", "replica"), "Gateway": ("gateway",), "Replicas": ("replica",)}
NOT_OF = {CLOSED: ("rate",), POISSON: (), TRACE: ("rate", "duration_s")}
"""Fields that a kind of load does not have."""


@number_form
def draw_start(ctx: Context, person: Person, endpoint: str) -> None:
    """Draw the fields, the time that the test takes, and the button."""
    kind = choose_one("Load", list(LOADS), default=CLOSED, key="load_kind") or CLOSED
    st.caption(LOADS[kind])
    values: FieldValues = {}
    arrivals = b""
    if kind == TRACE:
        upload = st.file_uploader(
            "Arrivals", type=["txt", "csv"], key="load_arrivals", help="A number of seconds per line."
        )
        arrivals = b"" if upload is None else upload.getvalue()
    fields = st.grid(3, min_column_width=200)
    has_replicas = get_endpoint(ctx, endpoint).config.upstream is None
    values["targets"] = TARGETS[
        fields.selectbox(
            "Target",
            [name for name in TARGETS if has_replicas or name == "Gateway"],
            key=f"load_targets_{has_replicas}",
            help="Both in turn: the difference of their medians is what the gateway adds.",
        )
    ]
    first = {"duration_s": 20, "rate": None if kind == CLOSED else 2.0}
    values |= draw_fields(LoadConfig, key="load", place=fields, values=first, skip=NOT_OF[kind])
    seconds = values.get("duration_s")
    if seconds and (levels := len(values["users"]) if kind == CLOSED else 1):
        st.caption(f"Takes about {format_duration(levels * seconds * len(values['targets']))}, and the warm-up.")
    if st.button(
        "Start load test",
        type="primary",
        key="load_start",
        icon=":material/speed:",
        disabled=(kind == TRACE and not arrivals) or bool(wrong_numbers()),
    ):
        with rerun_after():
            values["arrivals"] = read_arrivals(arrivals.decode(errors="replace")) if kind == TRACE else ()
            config: LoadConfig = read_values(LoadConfig, values)
            start_load_test(ctx, endpoint, config, person=person)
            st.toast(f"Load test of {plain(endpoint)} queued.", icon=":material/speed:")
