"""Launch: dataset, architecture or base, and numbers become a run. The YAML beside the form is the same thing in words."""

from __future__ import annotations

import hashlib

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.training.config import RunConfig, parse_config, parse_run_config
from backend.domain.training.config_fields import with_changes
from backend.domain.training.sweep import SweepConfig, parse_sweep
from backend.errors import InvalidInput, RoundhouseError
from backend.recipes import RECIPES, STARTER
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person
from backend.services.data.datasets import resolve_version
from backend.services.estimates.forecasts import Forecast, forecast
from backend.services.training.runs import launch_run
from backend.services.training.sweeps import launch_sweep
from backend.services.training.views import RunDetail, run_detail
from pages.components import routes
from pages.components.data.report_link import draw_report_link
from pages.components.frame import errors_shown, page_frame
from pages.components.training.estimate_card import draw_estimate
from pages.components.training.launch_checks import draw_changes, draw_problem, draw_warnings, mark_fields
from pages.components.training.run_form import FormState, draw_run_form, fill_form
from pages.components.training.sweep import draw_sweeps
from pages.components.training.sweep_form import draw_sweep_form, draw_sweep_preview

RECIPE_OF_KIND = {"text": STARTER, "instruction": "starter-sft", "chat": "starter-sft", "preference": "starter-dpo"}
ONE, SWEEP = "One run", "Sweep"
SOURCES = ("recipe", "run", "base", "dataset", "architecture", "set")


def first_config(ctx: Context) -> RunConfig:
    """Return the config that the address asks for: a recipe, a copy of a run, or a start from a base, dataset or architecture.

    `?run=…&set=field:value` is a copy with something changed.
    """
    asked = {name: st.query_params[name] for name in SOURCES if st.query_params.get(name)}
    if "run" in asked:
        config = run_detail(ctx, asked["run"]).config
        return with_changes(config, asked.get("set", "")).model_copy(update={"name": ""})
    fitting = "starter-sft" if "base" in asked else STARTER
    if "dataset" in asked:
        fitting = RECIPE_OF_KIND.get(resolve_version(ctx, asked["dataset"], ready=False).kind, fitting)
    recipe = RECIPES.get(asked.get("recipe", ""), RECIPES[fitting]).config
    changes: dict[str, object] = {} if "recipe" in asked or not asked else {"name": ""}
    if "base" in asked:
        changes["base"] = resolve_checkpoint(ctx, asked["base"]).name
    if "architecture" in asked:
        changes["architecture"] = asked["architecture"]
    if "dataset" in asked:
        changes["dataset"] = asked["dataset"]
    return recipe.model_copy(update=changes)


def prepare_form(ctx: Context) -> None:
    """Fill the form when the page is entered, when the address changes, and when a recipe or YAML was chosen."""
    source = tuple((name, st.query_params.get(name)) for name in SOURCES)
    chosen: RunConfig | None = st.session_state.pop("launch_fill", None)
    if chosen is None and ("launch_objective" not in st.session_state or st.session_state.get("launch_source") != source):
        chosen = first_config(ctx)
    st.session_state["launch_source"] = source
    if chosen is not None:
        fill_form(chosen)


def take_recipe() -> None:
    """Put the recipe that was clicked into the form at the next run."""
    name = st.session_state.get("launch_recipe")
    if name in RECIPES:
        st.session_state["launch_fill"] = RECIPES[name].config


def draw_top() -> str:
    """Draw whether it is one run or a sweep, and the recipes to start from; return the former."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        mode = st.segmented_control("Launch", [ONE, SWEEP], key="mode", bind="query-params", default=ONE, required=True)
        chosen = st.selectbox(
            "Start from a recipe",
            list(RECIPES),
            index=None,
            key="launch_recipe",
            format_func=lambda name: RECIPES[name].head.title,
            on_change=take_recipe,
            placeholder="None",
            width=340,
        )
    if chosen:
        head = RECIPES[chosen].head
        st.caption(f"{head.summary} {head.known}")
    return str(mode)


def draw_yaml(config: RunConfig | None) -> None:
    """Draw the config as YAML, and take other YAML in its place."""
    st.subheader("As YAML", anchor=False)
    if config is not None:
        st.code(config.to_yaml(), language="yaml", wrap_lines=True)
    else:
        st.caption("The YAML appears once nothing is missing and the values are right.")
    with st.popover("Paste YAML", icon=":material/content_paste:"):
        text = st.text_area("A recipe", key="launch_yaml", height=260, placeholder="objective: pretrain\ndataset: …")
        if st.button("Use it", key="launch_use_yaml", type="primary"):
            with errors_shown():
                st.session_state["launch_fill"] = parse_run_config(text or "")
                st.rerun()


def check(ctx: Context, form: FormState) -> tuple[RunConfig | None, Forecast | None, RoundhouseError | None]:
    """Return the config as far as it can be read, what it will do if it can be launched, and what is wrong otherwise."""
    if form.missing:
        return None, None, None
    try:
        config = parse_config(form.values)
    except InvalidInput as error:
        return None, None, error
    try:
        return config, forecast(ctx, config), None
    except RoundhouseError as error:
        return config, None, error


def launch(ctx: Context, person: Person, config: RunConfig, found: Forecast, parent: RunDetail | None) -> None:
    """Launch what the form holds. The key is made of the form, so that a double click is one run."""
    key = hashlib.sha256(f"{st.session_state['launch_nonce']}{config.model_dump_json()}".encode()).hexdigest()[:40]
    with errors_shown():
        run = launch_run(
            ctx,
            config,
            person=person,
            idempotency_key=f"page:{key}",
            parts=found.parts,
            parent=parent.run.id if parent else None,
            warnings=found.warnings,
        )
        st.switch_page(routes.RUN, query_params={"run": run.id})


def say_button(form: FormState, problem: RoundhouseError | None, *, accepted: bool) -> str:
    """Name what is missing for a launch."""
    if form.missing:
        return "Choose " + " and ".join(form.missing)
    return "Correct the values first" if problem is not None else "Launch" if accepted else "Accept the warnings first"


def draw_one_run(ctx: Context, person: Person) -> None:
    """Draw form, what will happen, YAML and the one button."""
    parent = run_detail(ctx, st.query_params["run"]) if st.query_params.get("run") else None
    left, right = _halves()
    with left:
        form = draw_run_form(ctx)
    config, found, problem = check(ctx, form)
    mark_fields(problem)
    with left:
        if problem is not None:
            draw_problem(problem)
        accepted = draw_warnings(found.warnings) if found else False
        label = say_button(form, problem, accepted=accepted)
        ready = config is not None and found is not None and accepted
        clicked = st.button(label, key="launch_go", type="primary", icon=":material/rocket_launch:" if ready else None, disabled=not ready)
        if clicked and config is not None and found is not None:
            launch(ctx, person, config, found, parent)
    with right:
        if config is not None:
            if parent is not None:
                draw_changes(parent, config)
            draw_estimate(ctx, person, config, found)
            draw_report_link(config, found.parts.report if found else None)
        draw_yaml(config)


def draw_a_sweep(ctx: Context, person: Person) -> None:
    """Draw the sweeps there are, the form of the run that is varied, and what varies."""
    draw_sweeps(ctx)
    left, right = _halves()
    with left:
        form = draw_run_form(ctx, named=False)
    config, found, problem = check(ctx, form)
    mark_fields(problem)
    if config is None or problem is not None:
        with left:
            if problem is not None:
                draw_problem(problem)
            st.button(say_button(form, problem, accepted=False), key="sweep_go", type="primary", disabled=True)
        return
    with left:
        values = draw_sweep_form(ctx, config)
    sweep: SweepConfig | None = None
    try:
        sweep = parse_sweep(values)
    except InvalidInput as error:
        problem = error
    with right:
        if sweep is not None:
            draw_sweep_preview(sweep, found)
        draw_estimate(ctx, person, config, found)
    with left:
        if problem is not None:
            draw_problem(problem)
        accepted = draw_warnings(found.warnings) if found else False
        label = f"Launch {sweep.num_runs} runs" if sweep and accepted else say_button(form, problem, accepted=accepted)
        ready = sweep is not None and accepted
        clicked = st.button(label, key="sweep_go", type="primary", icon=":material/rocket_launch:" if ready else None, disabled=not ready)
        if clicked and sweep is not None:
            with errors_shown():
                launched = launch_sweep(ctx, sweep, person=person)
                st.switch_page(routes.SWEEP, query_params={"sweep": launched.id})


def _halves() -> tuple[DeltaGenerator, DeltaGenerator]:
    thirds = st.grid(3, min_column_width=210, gap="large")
    return thirds.cell(column_span=2), thirds.cell()


def main() -> None:
    """Draw the form of one run, or of a sweep."""
    with page_frame("Launch", "A dataset and a network become a run. It waits in the queue until a worker takes it.", way_back=True) as (
        ctx,
        person,
    ):
        prepare_form(ctx)
        mode = draw_top()
        if mode == SWEEP:
            draw_a_sweep(ctx, person)
        else:
            draw_one_run(ctx, person)


main()
