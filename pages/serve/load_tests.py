"""Load tests: start one against an endpoint's gateway and replicas, follow it, and compare results."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.context import Context, Person
from backend.services.serving.endpoints import list_endpoints
from backend.services.serving.load_tests import find_load_job, list_load_tests
from pages.components import routes
from pages.components.frame import empty_state, page_frame, show_problem, warn_unknown
from pages.components.job_progress import draw_job
from pages.components.serving.load_tests import draw_load_results, draw_start


def choose_endpoint(ctx: Context) -> str | None:
    """Draw the choice of an endpoint, which the address names; None without one."""
    endpoints = list_endpoints(ctx)
    names = [endpoint.name for endpoint in endpoints]
    if not names:
        empty_state("No endpoint yet. Deploy a checkpoint, then load it.", page=routes.ENDPOINTS, label="Endpoints")
        return None
    requested = st.query_params.get("endpoint")
    if requested and requested not in names:
        warn_unknown("endpoint", requested, instead="another one is chosen")
    answering = [endpoint.name for endpoint in endpoints if endpoint.num_ready] or names
    index = names.index(requested if requested in names else answering[0])
    chosen: str = st.selectbox("Endpoint", names, index=index, key="load_endpoint", width=320)
    return chosen


def draw_load_tests(ctx: Context, person: Person, endpoint: str) -> None:
    """Draw the active test or the form, then the results."""
    job, tests = find_load_job(ctx, endpoint), list_load_tests(ctx, endpoint, limit=50)
    if job is not None and job.is_active:
        draw_job(ctx, person, job.id, doing="Starting")
    else:
        if job is not None and job.status is Status.FAILED:
            show_problem(job.error.cause or "The load test failed.", job.error.remedy)
        with st.expander("New load test", icon=":material/speed:", expanded=not tests, key="load_new"):
            draw_start(ctx, person, endpoint)
    if tests:
        st.subheader("Results", anchor=False)
        draw_load_results(tests)


with page_frame(
    "Load tests", "Generated requests against an endpoint: latencies, throughput, and what the gateway adds."
) as (context_, person_):
    endpoint_ = choose_endpoint(context_)
    if endpoint_ is not None:
        draw_load_tests(context_, person_, endpoint_)
