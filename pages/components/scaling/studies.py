"""Scaling studies: list, and the form of a new one with a preview of its runs."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.domain.json_values import FieldValues
from backend.domain.scaling.laws import DEFAULT_LAW, PUBLISHED
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
from pages.components.frame import empty_state, errors_shown, plain, show_error
from pages.components.links import row_link
from pages.components.numbers import draw_number, number_form, wrong_numbers
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
        values = _draw_form(
            datasets, tokenizers, first_parts(ctx), ", ".join(format_budget(budget) for budget in suggest_budgets(ctx))
        )
    with right:
        try:
            config = parse_study(values)
            preview = preview_study(ctx, config)
        except RoundhouseError as error:
            show_error(error)
            return
        _draw_preview(preview)
        _draw_launch(ctx, person, config, preview)


def _draw_form(
    datasets: list[str], tokenizers: list[str], first: tuple[str | None, str | None], budgets_text: str
) -> FieldValues:
    left, right = st.columns(2)
    dataset = left.selectbox("Dataset", datasets, index=_place(datasets, first[0]), key="study_dataset")
    tokenizer = right.selectbox("Tokenizer", tokenizers, index=_place(tokenizers, first[1]), key="study_tokenizer")
    budgets = st.text_input(
        "Budgets, FLOPs",
        budgets_text,
        key="study_budgets",
        help="Two to four, each at least three times the one before.",
    )
    left, right = st.columns(2)
    sizes = draw_number(left, "Sizes per budget", 3, 12, 5, key="study_sizes")
    spread = draw_number(
        right,
        "Spread",
        1.2,
        64.0,
        4.0,
        key="study_spread",
        is_whole=False,
        step=0.5,
        help="Ratio of the largest model to the middle one.",
    )
    left, right = st.columns(2)
    context = draw_number(left, "Context, tokens", 8, 1048576, 128, key="study_context")
    seed = draw_number(right, "Seed", 0, 2**32 - 1, 1, key="study_seed")
    law = st.selectbox(
        "Middle size by",
        [*PUBLISHED, OWN],
        key="study_law",
        format_func=law_label,
        index=[*PUBLISHED].index(DEFAULT_LAW),
        help="Centre of the range of sizes; the study finds the optimum.",
    )
    name = (
        st.text_input("Name", key="study_name", max_chars=100, placeholder=f"{dataset} scaling") or f"{dataset} scaling"
    )
    return {
        "name": name,
        "dataset": dataset,
        "tokenizer": tokenizer,
        "budgets": _read_budgets(budgets or ""),
        "sizes": sizes,
        "spread": spread,
        "context": context,
        "seed": seed,
        "law": law,
    }


def _place(options: list[str], name: str | None) -> int:
    return options.index(name) if name in options else 0


def _read_budgets(text: str) -> list[Any]:
    """Parse a list of numbers; other text is returned unchanged, and the schema rejects it by name."""
    budgets: list[Any] = []
    for part in text.replace(";", ",").split(","):
        cleaned = part.strip()
        if not cleaned:
            continue
        try:
            budgets.append(float(cleaned))
        except ValueError:
            budgets.append(cleaned)
    return budgets


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
