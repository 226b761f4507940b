"""Check of an evaluation against another engine: the button, and the largest difference."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.results import EngineCheck
from backend.domain.jobs.states import ACTIVE
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.evaluation.checks import launch_check, read_check
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.jobs.jobs import get_job
from pages.components.frame import draw_figure, plain, rerun_after
from pages.components.job_progress import draw_job

ENGINE = {"lm_eval": "lm-eval", "plain": "the plain engine"}
SAMPLE = 200
AGREES = 1e-4
"""Largest difference of a log-likelihood, in nats, up to which two engines agree."""


def draw_check(ctx: Context, person: Person, evaluation: EvaluationView) -> None:
    """Draw the newest check of an evaluation, one under way, and the button that starts another."""
    key = f"eval_check_job_{evaluation.id}"
    job_id = st.session_state.get(key)
    panel = st.expander(
        "Check against lm-eval", icon=":material/fact_check:", key="eval_check_panel", on_change="rerun"
    )
    if not panel.open and job_id is None:
        return
    with panel:
        if job_id is not None and get_job(ctx, job_id).status in ACTIVE:
            draw_job(ctx, person, job_id, doing="Computing the items by lm-eval")
            return
        if job_id is not None and (error := get_job(ctx, job_id).error):
            st.error(plain(f"{error.cause} {error.remedy}"), icon=":material/error:")
        check = read_check(ctx, evaluation.id)
        if check is not None:
            _draw_result(check)
        st.caption(
            f"Computes up to {SAMPLE} randomly drawn items by lm-evaluation-harness too, and compares them one by one."
        )
        if st.button("Check against lm-eval", key="eval_check", icon=":material/fact_check:"):
            with rerun_after():
                st.session_state[key] = launch_check(ctx, evaluation.id, person=person, items=SAMPLE).id


def _draw_result(check: EngineCheck) -> None:
    with st.container(horizontal=True):
        with st.container(border=True):
            largest = check.largest_difference
            draw_figure("Largest difference", "–" if largest is None else f"{largest:.2g} nats")
            st.caption(
                plain(
                    f"{plural(check.items, 'item')} by {check.engine} and by {ENGINE.get(check.against, check.against)}"
                )
            )
        with st.container(border=True):
            draw_figure("Other choice or answer", f"{check.other_choices}")
            st.caption(plain(f"{plural(check.other_values, 'item')} with another value of a metric"))
    if check.largest_difference is not None:
        agrees = check.largest_difference <= AGREES and not check.other_choices
        box, text = (
            (st.success, "Both engines agree.")
            if agrees
            else (st.warning, "The engines differ; see the items with the largest differences.")
        )
        box(text, icon=":material/check_circle:" if agrees else ":material/warning:")
    for item in check.shown[:5] if check.other_choices or check.other_values else ():
        difference = "" if item.difference is None else f", difference {item.difference:.2g} nats"
        st.caption(plain(f"Item {item.position + 1}{difference}{'' if item.same_choice else ', another choice'}"))
