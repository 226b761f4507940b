"""Launch page: the form of a run or a sweep, its estimate, its warnings, and the same config as YAML."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.training.config import RunConfig, parse_config, parse_run_config
from backend.domain.training.config_fields import explicit_paths, with_changes
from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective
from backend.domain.training.sweep import SweepConfig, parse_sweep
from backend.errors import InvalidInput, RoundhouseError
from backend.recipes import RECIPES, STARTER
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person
from backend.services.data.datasets import resolve_version
from backend.services.estimates.forecasts import Forecast, forecast, forecast_sweep
from backend.services.evaluation.open_suites import SuiteChoice
from backend.services.training.defaults import suggest_dataset
from backend.services.training.runs import launch_run
from backend.services.training.sweeps import launch_sweep
from backend.services.training.views import RunDetail, run_detail
from pages.components import routes
from pages.components.choices import choose_one
from pages.components.evaluation.suites import draw_suite_choice
from pages.components.form_drafts import draw_restored, forget_form, keep_form, restore_form
from pages.components.frame import errors_shown, handled, page_frame, rerun_after
from pages.components.numbers import number_form, wrong_numbers
from pages.components.training.draft import draw_draft, forget_draft, keep_draft, restore_draft
from pages.components.training.estimate_card import draw_estimate, draw_sweep_estimate
from pages.components.training.launch_checks import (
    accept_warnings,
    draw_config_changes,
    draw_launch_problem,
    draw_report_link,
    draw_row_preview,
    draw_warnings,
    mark_fields,
)
from pages.components.training.placement import draw_placement_choice
from pages.components.training.run_form import LAST_VALID, FormState, draw_run_form, fill_form, start_form
from pages.components.training.sweep_form import draw_sweep_form, draw_sweep_preview

ONE, SWEEP = "One run", "Sweep"
SOURCES = ("recipe", "run", "base", "dataset", "architecture", "set")


def open_form(ctx: Context) -> None:
    """Fill the form as the address asks: a recipe, a copy of a run, or the defaults for a base, dataset or
    architecture.

    `?run=…&set=field:value` is a copy with a change. Without anything in the address it is the starter recipe, if its
    dataset is there.
    """
    query = address_parts()
    if "run" in query:
        config = run_detail(ctx, query["run"]).config
        fill_form(with_changes(config, query.get("set", "")).model_copy(update={"name": ""}), origin="copy")
        return
    recipe = query.get("recipe") or ("" if query or not _exists(ctx, RECIPES[STARTER].config.dataset) else STARTER)
    if recipe in RECIPES:
        st.session_state["launch_recipe"] = recipe
        fill_form(RECIPES[recipe].config, origin="recipe")
        return
    base = resolve_checkpoint(ctx, query["base"]).name if "base" in query else None
    objective = Objective.SFT if base else Objective.PRETRAIN
    if "dataset" in query:
        kind = resolve_version(ctx, query["dataset"], ready=False).kind
        objective = next((one for one, facts in OBJECTIVE_FACTS.items() if kind in facts.datasets), objective)
    dataset, architecture = query.get("dataset"), query.get("architecture")
    if dataset is None and architecture is not None and base is None:
        dataset = suggest_dataset(ctx, architecture)
    start_form(objective, dataset=dataset, architecture=architecture, base=base)


def prepare_form(ctx: Context, person: Person) -> None:
    """Fill the form when the page is entered, from the draft or the address, when the address changes, and when a
    recipe or YAML was chosen.
    """
    source = tuple((name, st.query_params.get(name)) for name in SOURCES)
    copy: RunConfig | None = st.session_state.pop("launch_fill", None)
    pasted: RunConfig | None = st.session_state.pop("launch_fill_yaml", None)
    recipe: str | None = st.session_state.pop("launch_fill_recipe", None)
    if copy is not None or pasted is not None or st.session_state.pop("launch_recipe_left", False):
        st.session_state["launch_recipe"] = None
    if copy is not None:
        fill_form(copy, origin="copy")
    elif pasted is not None:
        fill_form(pasted, origin="recipe", typed=explicit_paths(pasted))
    elif recipe is not None:
        fill_form(RECIPES[recipe].config, origin="recipe")
    elif (
        "launch_objective" not in st.session_state or st.session_state.get("launch_source") != source
    ) and not restore_draft(ctx, person, address_parts()):
        open_form(ctx)
    st.session_state["launch_source"] = source


def address_parts() -> dict[str, str]:
    """Return what the address asks the form to hold."""
    return {name: value for name in SOURCES if (value := st.query_params.get(name))}


@handled
def take_recipe() -> None:
    """Load the clicked recipe into the form at the next rerun."""
    if (name := st.session_state.get("launch_recipe")) in RECIPES:
        st.session_state["launch_fill_recipe"] = name


def draw_top() -> str:
    """Draw the choice between one run and a sweep, and the recipes to start from; return the former."""
    with st.container(horizontal=True, gap="medium"):
        mode = choose_one("Launch", [ONE, SWEEP], key="mode", bind="query-params")
        recipe = st.selectbox(
            "Recipe",
            list(RECIPES),
            index=None,
            key="launch_recipe",
            format_func=lambda name: RECIPES[name].head.title,
            on_change=take_recipe,
            placeholder="None",
            width=340,
        )
    if recipe:
        head = RECIPES[recipe].head
        st.caption(f"{head.summary} {head.known}")
    return str(mode)


def _exists(ctx: Context, dataset: str) -> bool:
    try:
        resolve_version(ctx, dataset, ready=False)
    except RoundhouseError:
        return False
    return True


def draw_run_yaml(config: RunConfig | None) -> None:
    """Draw the config as YAML, once opened, and a field to paste other YAML."""
    panel = st.expander("As YAML", icon=":material/data_object:", key="launch_yaml_panel", on_change="rerun")
    if panel.open:  # syntax highlighting loads 1.6 MB
        with panel:
            if config is not None:
                st.code(config.to_yaml(), language="yaml", wrap_lines=True)
            else:
                st.caption("The YAML appears when the form is complete and valid.")
    with st.popover("Paste YAML", icon=":material/content_paste:"):
        text = st.text_area("A recipe", key="launch_yaml", height=260, placeholder="objective: pretrain\ndataset: …")
        if st.button("Use it", key="launch_use_yaml", type="primary"):
            with rerun_after():
                st.session_state["launch_fill_yaml"] = parse_run_config(text or "")


Checked = tuple[RunConfig | None, Forecast | None, RoundhouseError | None]


def check(ctx: Context, form: FormState) -> Checked:
    """Return the config if it is valid, its forecast if it can be launched, and the error otherwise."""
    if form.missing:
        return None, None, None
    try:
        config = parse_config(form.values)
    except InvalidInput as error:
        return None, None, error
    try:
        expected = forecast(ctx, config)
    except RoundhouseError as error:
        return config, None, error
    st.session_state[LAST_VALID] = config, expected
    return config, expected, None


def last_valid(form: FormState) -> tuple[RunConfig, Forecast] | None:
    """Return the last values of the form that could be launched, so that a wrong one leaves the page as it is; None
    where they are of another objective, or there are none.
    """
    known: tuple[RunConfig, Forecast] | None = st.session_state.get(LAST_VALID)
    return known if known is not None and known[0].objective == form.values["objective"] else None


def launch(
    ctx: Context,
    person: Person,
    config: RunConfig,
    expected: Forecast,
    parent: RunDetail | None,
    suites: Sequence[SuiteChoice],
    placement: str | None,
) -> None:
    """Launch the form's run. The key is made of the form, so that a double click launches one run."""
    form = f"{st.session_state['launch_nonce']}{placement or ''}{config.model_dump_json()}"
    key = hashlib.sha256(form.encode()).hexdigest()[:40]
    with errors_shown():
        run = launch_run(
            ctx,
            config,
            person=person,
            idempotency_key=f"page:{key}",
            parts=expected.parts,
            parent=parent.run.id if parent else None,
            warnings=expected.warnings,
            suites=suites,
            placement=placement,
        )
        forget_draft(ctx, person)
        st.switch_page(routes.RUN, query_params={"run": run.id})


def draw_button(
    form: FormState, expected: Forecast | None, problem: RoundhouseError | None, *, key: str, label: str = "Launch"
) -> bool:
    """Draw the launch button, with what blocks it beside and below, so that it stays where the pointer is; return
    whether the form is launched. Without an `expected` it can't be.
    """
    with st.container(horizontal=True, vertical_alignment="center", key=f"{key}_row"):
        place = st.container(width="content")
        accepted = accept_warnings(expected.warnings) if expected else False
    ready = accepted and not wrong_numbers()
    if form.missing:
        label = "Choose " + " and ".join(form.missing)
    elif problem is not None or wrong_numbers():
        label = "Correct the values first"
    elif not accepted:
        label = "Accept the warnings first"
    clicked = place.button(
        label, key=key, type="primary", icon=":material/rocket_launch:" if ready else None, disabled=not ready
    )
    if problem is not None:
        draw_launch_problem(problem)
    if expected is not None:
        draw_warnings(expected.warnings)
    return clicked


@number_form
def draw_one_run(ctx: Context, person: Person) -> None:
    """Draw form, estimate, YAML and the launch button."""
    parent = run_detail(ctx, st.query_params["run"]) if st.query_params.get("run") else None
    left, right = _halves()
    with left:
        form = draw_run_form(ctx, copied=parent.config if parent else None)
    keep_draft(ctx, person, form.values, address_parts())
    config, expected, problem = check(ctx, form)
    mark_fields(problem)
    with left:
        suites = draw_suite_choice(ctx)
        placement = draw_placement_choice(ctx)
        clicked = draw_button(form, expected, problem, key="launch_go")
        if clicked and config is not None and expected is not None:
            launch(ctx, person, config, expected, parent, suites, placement)
    with right:
        if config is not None:
            if parent is not None:
                draw_config_changes(parent, config)
            draw_estimate(ctx, person, config, expected, placement=placement)
            draw_report_link(config, expected.parts.report if expected else None)
        elif (before := last_valid(form)) is not None:
            st.caption("Of the last values that can be launched:")
            draw_estimate(ctx, person, *before)
        draw_row_preview(ctx, form.values["dataset"], Objective(form.values["objective"]))
        draw_run_yaml(config)


@number_form
def draw_a_sweep(ctx: Context, person: Person) -> None:
    """Draw the form of the run that is varied, and the form of the search."""
    parent = run_detail(ctx, st.query_params["run"]) if st.query_params.get("run") else None
    left, right = _halves()
    with left:
        form = draw_run_form(ctx, named=False, copied=parent.config if parent else None)
    keep_draft(ctx, person, form.values, address_parts())
    config, expected, problem = check(ctx, form)
    mark_fields(problem)
    if config is None or problem is not None:
        before = last_valid(form)
        with left:
            if before is not None:
                draw_sweep_form(ctx, before[0])
            draw_button(form, None, problem, key="sweep_go")
        if before is not None:
            with right:
                st.caption("Of the last values that can be launched:")
                draw_estimate(ctx, person, *before)
        return
    # objectives and bases have other fields to vary
    draft = f"sweep_of_{config.objective}{'_base' if config.base else ''}"
    with left:
        restore_form(ctx, person, draft, first="sweep_method")
        draw_restored(ctx, person, draft)
        values = draw_sweep_form(ctx, config)
    keep_form(ctx, person, draft, prefix="sweep_", skip=("sweep_go",))
    sweep: SweepConfig | None = None
    try:
        sweep = parse_sweep(values)
    except InvalidInput as error:
        problem = error
    with right:
        if sweep is not None and expected is not None:
            draw_sweep_estimate(ctx, person, sweep, forecast_sweep(ctx, sweep, base=expected), expected)
            draw_sweep_preview(sweep)
        else:
            draw_estimate(ctx, person, config, expected)
    with left:
        placement = draw_placement_choice(ctx)
        label = f"Launch {sweep.num_runs} runs" if sweep else "Launch"
        clicked = draw_button(form, expected if sweep else None, problem, key="sweep_go", label=label)
        if clicked and sweep is not None:
            with errors_shown():
                launched = launch_sweep(ctx, sweep, person=person, placement=placement)
                forget_draft(ctx, person)
                forget_form(ctx, person, draft)
                st.switch_page(routes.SWEEP, query_params={"sweep": launched.id})


def _halves() -> tuple[DeltaGenerator, DeltaGenerator]:
    thirds = st.grid(3, min_column_width=210, gap="large")
    return thirds.cell(column_span=2), thirds.cell()


def main() -> None:
    """Draw the form of one run, or of a sweep."""
    with page_frame(
        "Launch", "Train a model on a dataset. The run waits in the queue until a worker takes it.", way_back=True
    ) as (ctx, person):
        prepare_form(ctx, person)
        mode = draw_top()
        draw_draft(ctx, person)
        if mode == SWEEP:
            draw_a_sweep(ctx, person)
        else:
            draw_one_run(ctx, person)


main()
