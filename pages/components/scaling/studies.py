"""Scaling studies: list, and the form of a new one with a preview of its runs."""

from __future__ import annotations

import streamlit as st

from backend.domain.json_values import FieldValues
from backend.domain.scaling.laws import PUBLISHED
from backend.domain.scaling.study import StudyConfig, StudyPlan, format_budget, parse_study
from backend.domain.wording import format_duration, plural, short
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.scaling.planner import OWN
from backend.services.scaling.studies import (
    StudyView,
    launch_study,
    list_studies,
    preview_study,
    study_yaml,
    suggest_budgets,
)
from pages.components import routes
from pages.components.forms import draw_fields
from pages.components.frame import empty_state, errors_shown, plain, show_error
from pages.components.links import row_link
from pages.components.numbers import number_form, wrong_numbers
from pages.components.scaling.plan_form import dataset_options, first_parts, law_label, tokenizer_options
from pages.components.scaling.study import draw_study
from pages.components.tables import WidgetTable, draw_table
from pages.components.words import when

PAGE = routes.PLANNER
TABLE = WidgetTable("studies", {"Name": 2.5, "Data and tokenizer": 2.5, "Progress": 2, "When": 1})


def draw_studies(ctx: Context, person: Person) -> None:
    """Draw the study named in the address, else the list and the form."""
    if study_id := st.query_params.get("study"):
        draw_study(ctx, person, study_id)
        return
    studies = list_studies(ctx)
    if studies:
        with TABLE.frame():
            for study in studies:
                _draw_row(ctx, study)
    _draw_new(ctx, person)


def _draw_row(ctx: Context, study: StudyView) -> None:
    columns = TABLE.row(study.id)
    with columns[0]:
        row_link(study.name, page=PAGE, query={"study": study.id}, icon="stacked_line_chart", key=f"study_{study.id}")
    columns[1].caption(plain(f"{study.config.dataset} · {study.config.tokenizer}"))
    state = f"{study.num_finished} of {study.num_planned} runs finished"
    if study.num_active:
        state += f", {study.num_active} to go"
    columns[2].text(state)
    columns[3].caption(when(study.created_at, now=ctx.now()))


@number_form
def _draw_new(ctx: Context, person: Person) -> None:
    st.subheader("New study", anchor=False)
    st.caption(
        "Trains models of several sizes on equal budgets. The size with the lowest loss is optimal for its budget;"
        " several budgets give a scaling law for your data."
    )
    datasets, tokenizers = dataset_options(ctx), tokenizer_options(ctx)
    if not datasets:
        empty_state(
            "A study needs a text dataset.", page=routes.DATASETS, label="Import one", icon=":material/database:"
        )
        return
    if not tokenizers:
        empty_state(
            "A study needs a tokenizer.", page=routes.TOKENIZERS, label="Train one", icon=":material/match_word:"
        )
        return
    halves = st.grid(2, min_column_width=400, gap="large")
    left, right = halves.cell(), halves.cell()
    with left, st.container(border=True):
        values = _draw_form(ctx, datasets, tokenizers)
    with right:
        try:
            config = parse_study(values)
            preview = preview_study(ctx, config)
        except RoundhouseError as error:
            show_error(error)
            return
        _draw_preview(preview)
        _draw_launch(ctx, person, config, preview)


def _draw_form(ctx: Context, datasets: list[str], tokenizers: list[str]) -> FieldValues:
    dataset, tokenizer = first_parts(ctx)
    budgets = tuple(format_budget(budget) for budget in suggest_budgets(ctx))
    values = draw_fields(
        StudyConfig,
        key="study",
        only=("dataset", "tokenizer", "budgets", "law", "sizes", "spread", "context", "seed", "name"),
        values={"dataset": dataset, "tokenizer": tokenizer, "budgets": budgets},
        choices={
            "dataset": {name: name for name in datasets},
            "tokenizer": {name: name for name in tokenizers},
            "law": {law: law_label(law) for law in (*PUBLISHED, OWN)},
        },
        empty={"name": f"{st.session_state.get('study_dataset', dataset)} scaling"},
        columns=2,
    )
    return {**values, "name": values["name"] or f"{values['dataset']} scaling"}


def _draw_preview(preview: StudyPlan) -> None:
    total = plural(len(preview.runs), "run")
    time = (
        f", about {format_duration(preview.seconds)} one after the other"
        if preview.seconds is not None
        else ", how long is not known yet"
    )
    st.markdown(f"**{total}{time}**")
    rows = [
        {
            "Budget": format_budget(run.budget),
            "Parameters": run.parameters,
            "Tokens": short(run.tokens),
            "Steps": run.config.max_steps,
            "Learning rate": run.config.learning_rate,
            "Epochs": None if run.epochs is None else round(run.epochs, 2),
            **({} if run.seconds is None else {"Time": format_duration(run.seconds)}),
        }
        for run in preview.runs
    ]
    with st.container(height=420 if len(rows) > 10 else "content", border=False):
        draw_table(rows, key="study_preview", alt="Runs of the study", formats={"Learning rate": ".3g"})
    for text in preview.notes:
        st.caption(f":material/info: {plain(text)}")


def _draw_launch(ctx: Context, person: Person, config: StudyConfig, preview: StudyPlan) -> None:
    if st.button(
        f"Launch {plural(len(preview.runs), 'run')}",
        key="study_launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(wrong_numbers()),
    ):
        with errors_shown():
            study = launch_study(ctx, config, person=person)
            st.switch_page(PAGE, query_params={"study": study.id})
    with st.expander("Show as YAML", icon=":material/data_object:"):
        st.code(study_yaml(config), language="yaml")
        st.caption("`roundhouse plan study FILE.yaml --launch` launches it.")
