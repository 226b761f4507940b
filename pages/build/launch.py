"""Launch: dataset, architecture or base, and numbers become a run. The YAML beside the form is the same thing in words."""

from __future__ import annotations

import hashlib

import streamlit as st

from backend.domain.run_config import RunConfig, parse_run_config
from backend.errors import InvalidInput, RoundhouseError
from backend.recipes import RECIPES, STARTER
from backend.services.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person
from backend.services.datasets import resolve_version
from backend.services.run_parts import parse_config, resolve_parts
from backend.services.run_views import run_detail
from backend.services.runs import launch_run
from pages.components.data_report_link import draw_report_link
from pages.components.estimate_card import draw_estimate
from pages.components.frame import errors_shown, page_frame, plain
from pages.components.run_form import FormState, draw_run_form, fill_form

RECIPE_OF_KIND = {"text": STARTER, "instruction": "starter-sft", "chat": "starter-sft", "preference": "starter-dpo"}
SOURCES = ("recipe", "run", "base", "dataset", "architecture")


def first_config(ctx: Context) -> RunConfig:
    """Return the config that the address asks for: a recipe, a copy of a run, or a start from a base, dataset or architecture."""
    asked = {name: st.query_params[name] for name in SOURCES if st.query_params.get(name)}
    if "run" in asked:
        config = run_detail(ctx, asked["run"]).config
        return config.model_copy(update={"name": ""})
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


def draw_recipes() -> None:
    """Draw the recipes to start from."""
    chosen = st.pills(
        "Start from a recipe", list(RECIPES), key="launch_recipe", format_func=lambda name: RECIPES[name].title, on_change=take_recipe
    )
    if chosen:
        recipe = RECIPES[chosen]
        st.caption(recipe.summary + (f" {recipe.verified_on}" if recipe.verified_on else ""))


def draw_yaml(config: RunConfig | None) -> None:
    """Draw the config as YAML, and take other YAML in its place."""
    st.subheader("As YAML", anchor=False)
    if config is not None:
        st.code(config.to_yaml(), language="yaml", wrap_lines=True)
    else:
        st.caption("The YAML appears once nothing is missing.")
    with st.popover("Paste YAML", icon=":material/content_paste:"):
        text = st.text_area("A recipe", key="launch_yaml", height=260, placeholder="objective: pretrain\ndataset: …")
        if st.button("Use it", key="launch_use_yaml", type="primary"):
            with errors_shown():
                st.session_state["launch_fill"] = parse_run_config(text or "")
                st.rerun()


def check(ctx: Context, form: FormState) -> tuple[RunConfig | None, str, RoundhouseError | None]:
    """Return the config if it can be launched, the button's label, and what is wrong otherwise."""
    if form.missing:
        return None, "Choose " + " and ".join(form.missing), None
    try:
        config = parse_config(form.values)
    except InvalidInput as error:
        return None, "Correct the values first", error
    try:
        resolve_parts(ctx, config)
    except RoundhouseError as error:
        return config, "Correct the values first", error
    return config, "Launch", None


def launch(ctx: Context, person: Person, config: RunConfig) -> None:
    """Launch what the form holds. The key is made of the form, so that a double click is one run."""
    key = hashlib.sha256(f"{st.session_state['launch_nonce']}{config.model_dump_json()}".encode()).hexdigest()[:40]
    with errors_shown():
        run = launch_run(ctx, config, person=person, idempotency_key=f"page:{key}")
        st.switch_page("build/run.py", query_params={"run": run.id})


def main() -> None:
    """Draw recipes, form, YAML and the one button."""
    with page_frame("Launch", "A dataset and a network become a run. It waits in the queue until a worker takes it.") as (ctx, person):
        prepare_form(ctx)
        draw_recipes()
        thirds = st.grid(3, min_column_width=250, gap="large")
        left, right = thirds.cell(column_span=2), thirds.cell()
        with left:
            form = draw_run_form(ctx)
        config, label, problem = check(ctx, form)
        ready = label == "Launch"
        with left:
            if problem is not None:
                st.warning(plain(problem.message) + (f"  \n{plain(problem.remedy)}" if problem.remedy else ""), icon=":material/error:")
            if (
                st.button(label, key="launch_go", type="primary", icon=":material/rocket_launch:" if ready else None, disabled=not ready)
                and config
            ):
                launch(ctx, person, config)
        with right:
            if config is not None:
                draw_estimate(ctx, person, config, sound=problem is None)
                draw_report_link(ctx, config)
            draw_yaml(config)


main()
