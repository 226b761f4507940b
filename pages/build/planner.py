"""Planner: turn a compute budget into a run, and runs of several sizes into a scaling law."""

from __future__ import annotations

import streamlit as st

from backend.domain.scaling.plan import ScalingPlan, parse_plan
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.scaling.planner import plan_run, pool_of_plan
from pages.components.choices import choose_one
from pages.components.frame import page_frame, show_error
from pages.components.numbers import number_form, wrong_numbers
from pages.components.scaling.plan import draw_laws, draw_plan, draw_plan_charts, draw_plan_form, draw_plan_use
from pages.components.scaling.studies import draw_studies

PLAN, STUDIES, LAWS = "Plan", "Studies", "Laws"


@number_form
def draw_plan_view(ctx: Context) -> None:
    """Draw form and plan side by side, and the charts below."""
    halves = st.grid(2, min_column_width=400, gap="large")
    left, right = halves.cell(), halves.cell()
    with left, st.container(border=True):
        values = draw_plan_form(ctx)
    plan: ScalingPlan | None = None
    with right:
        if wrong_numbers():
            st.info("Correct the fields to see the plan.", icon=":material/rule:")
            return
        try:
            plan = plan_run(ctx, parse_plan(values))
        except RoundhouseError as error:
            show_error(error)
        else:
            draw_plan(plan)
            draw_plan_use(plan)
    if plan is not None:
        draw_plan_charts(plan, pool_of_plan(ctx, plan.config))


def main(ctx: Context, person: Person) -> None:
    """Draw the chosen view."""
    if "study" in st.query_params:
        draw_studies(ctx, person)
        return
    view = choose_one("View", [PLAN, STUDIES, LAWS], key="view", bind="query-params", is_bare=True)
    if view == STUDIES:
        draw_studies(ctx, person)
    elif view == LAWS:
        draw_laws()
    else:
        draw_plan_view(ctx)


with page_frame(
    "Planner",
    "Compute-optimal parameters, tokens and expected loss for a budget, by published scaling laws or your own runs.",
    objects=["study"],
) as (ctx, person):
    main(ctx, person)
