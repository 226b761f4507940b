"""The place a run goes to: the choice at its launch, what a cluster says while the run waits there, and the machines of
a run over several.
"""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.jobs.gangs import describe_gang, list_members
from backend.services.jobs.placements import describe_order, describe_waiting, list_providers
from backend.services.training.views import RunView
from pages.components.choices import choose_from
from pages.components.frame import plain

PLACEMENT = "launch_placement"
HERE = "Workers of this installation"


def draw_placement_choice(ctx: Context) -> str | None:
    """Draw where to run, once a cluster is set up; return the placement, None for the installation's own workers."""
    providers = list_providers(ctx)
    choices = {str(choice.placement): choice for provider in providers for choice in provider.choices}
    chosen: str | None = None
    if choices:
        chosen = choose_from(
            "Run on",
            choices,
            words=lambda key: f"{choices[key].placement.label} ({choices[key].detail})",
            key=PLACEMENT,
            value=None,
            placeholder=HERE,
            width=340,
        )
    if chosen:
        title = choices[chosen].placement.title
        st.caption(f"The estimate covers local workers only. The run page shows what {title} says.")
    for provider in providers:
        if provider.problem:
            st.caption(f":material/cloud_off: {plain(f'{provider.title} is not offered: {provider.problem}')}")
    return chosen


def draw_placement(ctx: Context, run: RunView) -> None:
    """Draw the cluster that a run was sent to, with its id there, or the machines that it runs on if they are several;
    nothing for any other run.
    """
    has_begun = run.is_active and run.status is not Status.QUEUED
    for member in list_members(ctx, run.job_id) if run.job_id and has_begun else ():
        device = f" · GPU {member.device}" if member.device else ""
        st.badge(plain(member.host + device), icon=":material/dns:", color="gray" if member.is_alive else "red")
    if run.job_id and (text := describe_order(ctx, run.job_id)):
        st.badge(plain(text), icon=":material/dns:", color="gray")


def draw_placement_wait(ctx: Context, run: RunView) -> None:
    """Draw why a run waits that was sent to a cluster, or that needs several machines."""
    if run.job_id and (sentence := describe_gang(ctx, run.job_id)):
        st.info(plain(sentence), icon=":material/hub:")
    waiting = describe_waiting(ctx, run.job_id) if run.job_id else None
    if waiting is None:
        return
    if waiting.is_stuck:
        st.warning(plain(waiting.sentence), icon=":material/cloud_off:")
    else:
        st.info(plain(waiting.sentence), icon=":material/schedule:")
