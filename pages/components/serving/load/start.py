"""Form that starts a load test."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.domain.serving.load import LoadConfig
from backend.domain.wording import format_duration
from backend.errors import InvalidInput
from backend.services.context import Context, Person
from backend.services.serving.load.load_files import parse_whole_numbers, read_arrivals, read_load_config
from backend.services.serving.load.load_tests import start_load_test
from pages.components.frame import errors_shown, plain
from pages.components.numbers import draw_number, number_form, wrong_numbers

CLOSED, POISSON, TRACE = "Users (closed loop)", "Rate (open loop)", "Arrivals from a file (open loop)"
LOADS = {
    CLOSED: "Each user sends a request when the last one has ended.",
    POISSON: "Requests arrive at random (Poisson), whether or not earlier ones have ended.",
    TRACE: "Requests arrive at recorded times.",
}
TARGETS = {"Gateway and replicas": ("gateway", "replica"), "Gateway": ("gateway",), "Replicas": ("replica",)}
MIX = "Several values are a mix, drawn evenly: 48, 48, 1500 draws 48 twice as often."


@number_form
def draw_start(ctx: Context, person: Person, endpoint: str) -> None:
    """Draw the fields, the time that the test takes, and the button."""
    kind = st.segmented_control("Load", list(LOADS), default=CLOSED, key="load_kind", required=True) or CLOSED
    st.caption(LOADS[kind])
    fields = st.grid(3, min_column_width=200)
    values: dict[str, Any] = {}
    users, arrivals = "1, 8", b""
    if kind == CLOSED:
        users = fields.text_input("Users", "1, 8", key="load_users", help="One level each.")
    elif kind == POISSON:
        values["rate"] = draw_number(
            fields, "Requests per second", 0.01, 100000.0, 2.0, key="load_rate", is_whole=False
        )
    else:
        upload = fields.file_uploader(
            "Arrivals", type=["txt", "csv"], key="load_arrivals", help="A number of seconds per line."
        )
        arrivals = b"" if upload is None else upload.getvalue()
    if kind != TRACE:
        values["duration_s"] = draw_number(
            fields, "Seconds per level", 1, 3600, 20, key="load_seconds", help="After the warm-up."
        )
    values["targets"] = TARGETS[
        fields.selectbox(
            "Target",
            list(TARGETS),
            key="load_targets",
            help="Both in turn: the difference of their medians is what the gateway adds.",
        )
    ]
    prompt_words = fields.text_input("Words per prompt", "48", key="load_words", help=MIX)
    max_tokens = fields.text_input("Max new tokens", "32", key="load_tokens", help=MIX)
    values["warmup"] = draw_number(
        fields, "Warm-up requests", 0, 1000, 4, key="load_warmup", help="Not counted; with users, at least one each."
    )
    values["slo_ttft_ms"] = draw_number(
        fields, "Objective: first token, ms", 1.0, 600000.0, 1000.0, key="load_ttft", is_whole=False
    )
    values["slo_itl_ms"] = draw_number(
        fields, "Objective: between tokens, ms", 1.0, 600000.0, 100.0, key="load_itl", is_whole=False
    )
    if kind != TRACE and (levels := _num_levels(users) if kind == CLOSED else 1):
        st.caption(
            f"Takes about {format_duration(levels * float(values['duration_s']) * len(values['targets']))}, and the"
            " warm-up."
        )
    if st.button(
        "Start load test",
        type="primary",
        key="load_start",
        icon=":material/speed:",
        disabled=(kind == TRACE and not arrivals) or bool(wrong_numbers()),
    ):
        with errors_shown():
            if kind == CLOSED:
                values["users"] = parse_whole_numbers(users, field="users")
            values["arrivals"] = read_arrivals(arrivals.decode(errors="replace")) if kind == TRACE else ()
            values["prompt_words"] = parse_whole_numbers(prompt_words, field="prompt_words")
            values["max_tokens"] = parse_whole_numbers(max_tokens, field="max_tokens")
            config: LoadConfig = read_load_config(values)
            start_load_test(ctx, endpoint, config, person=person)
            st.toast(f"Load test of {plain(endpoint)} queued.", icon=":material/speed:")
            st.rerun()


def _num_levels(users: str) -> int:
    """Return the number of levels, 0 for a text that is refused."""
    try:
        return len(parse_whole_numbers(users, field="users"))
    except InvalidInput:
        return 0
