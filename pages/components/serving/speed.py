"""Measured speed of a checkpoint on the deployment form, and the button that measures it."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.context import Context, Person
from backend.services.serving.speed import find_speed, find_speed_probe, launch_speed_probe, speed_choices
from pages.components.frame import plain, rerun_after, show_problem
from pages.components.job_progress import draw_job
from pages.components.tables import draw_table
from pages.components.words import size, when

FORMATS = {"US$ per million tokens": ",.4g", "Perplexity ratio": ".3f"}
PRICED = "A million generated tokens are priced for a replica that is never idle."
HELP = (
    "Loads the checkpoint as a replica does and times 1, 8 and 32 users who each wait for an answer: about 30 seconds."
)


def draw_speed(ctx: Context, person: Person, checkpoint_id: str) -> None:
    """Draw tokens per second and time to the first token by number of users, or the way to measure them."""
    job = find_speed_probe(ctx, checkpoint_id)
    if job is not None and job.is_active:
        draw_job(ctx, person, job.id, doing="Loading the model")
        return
    if job is not None and job.status is Status.FAILED:
        show_problem(job.error.cause or "The measurement failed.", job.error.remedy)
    speed = find_speed(ctx, checkpoint_id)
    if speed is not None:
        choices = speed_choices(ctx, speed)
        rows = [
            {
                "Precision": choice.load.precision,
                "Users at once": choice.load.users,
                "Tokens/s, all users": f"{choice.load.tokens_per_s:,.0f}",
                "Tokens/s, each": f"{choice.load.tokens_per_s / choice.load.users:,.1f}",
                "First token, median": "none" if choice.load.ttft_ms is None else f"{choice.load.ttft_ms:,.0f} ms",
                "US$ per million tokens": choice.usd_per_million_tokens,
                "Perplexity ratio": choice.perplexity_ratio,
            }
            for choice in choices
        ]
        draw_table(
            rows, key=f"speed_{checkpoint_id}", alt="Speed, price and quality by precision and users", formats=FORMATS
        )
        memory = f", {size(speed.result.memory_bytes)} of memory" if speed.result.memory_bytes else ""
        st.caption(f"{plain(speed.conditions)}{memory}. Measured {when(speed.measured_at)}. {PRICED}")
    label = "Measure speed" if speed is None else "Measure again"
    kind: Literal["secondary", "tertiary"] = "secondary" if speed is None else "tertiary"
    with st.container(horizontal=True, vertical_alignment="center"):
        is_requested = st.button(label, key="measure_speed", icon=":material/speed:", help=HELP, type=kind)
        with_int8 = st.checkbox(
            "Measure int8 too", key="measure_int8", help="On CPUs: its speed, and its perplexity against float32."
        )
    if is_requested:
        with rerun_after():
            launch_speed_probe(ctx, checkpoint_id, person=person, with_int8=with_int8)
