"""Trying a prompt: rows and endpoints as a matrix of answers, and the task that is made of it."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.domain.data.rows.display import displayable
from backend.domain.evaluation.prompts import read_typed_rows
from backend.domain.json_values import Row
from backend.domain.serving.chat import AnswerSettings
from backend.domain.serving.prompt_matrix import MAX_ENDPOINTS, MAX_ROWS, MatrixAnswers, MatrixCell
from backend.domain.wording import plural, visible
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.data.views import VersionView
from backend.services.serving.adapters import list_adapter_endpoints
from backend.services.serving.endpoints import list_alias_endpoints, list_endpoints
from backend.services.serving.prompt_matrices import (
    MatrixLine,
    dataset_rows,
    delete_matrix,
    get_matrix,
    list_prompt_matrices,
    save_as_task,
    start_matrix,
    stop_matrix,
)
from backend.services.serving.prompts import PromptVersionView, PromptView
from pages.components import routes
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.confirm import close_menu, draw_confirmed, menu_key
from pages.components.frame import empty_state, errors_shown, live_part, plain, rerun_after
from pages.components.links import page_link
from pages.components.numbers import draw_number, form_button, number_form
from pages.components.tables import WidgetTable
from pages.components.words import when

TYPED, FROM_DATASET = "Enter rows", "From a dataset"
REFRESH_S = 1.0
LONG = 320
"""Characters of an answer above which its cell scrolls."""
METRICS = {"exact_match": "Exact match", "f1": "Token F1", "contains": "Contains the expected answer"}
BADGES: dict[str, tuple[str, str]] = {
    "running": ("blue", "hourglass_top"),
    "stopping": ("blue", "hourglass_top"),
    "done": ("green", "check_circle"),
    "stopped": ("gray", "stop_circle"),
    "failed": ("red", "error"),
}


def draw_trying(ctx: Context, person: Person, prompt: PromptView, version: PromptVersionView) -> None:
    """Draw the form that starts a matrix, the chosen matrix, and the way to a task."""
    draw_form(ctx, person, prompt, version)
    matrices = list_prompt_matrices(ctx, prompt.name)
    requested = st.query_params.get("matrix")
    shown: MatrixLine | None = None
    if requested:
        with errors_shown():
            shown = get_matrix(ctx, requested, prompt=prompt.name)
    elif matrices:
        shown = matrices[0]
    if len(matrices) > 1 or (requested and matrices):
        labels = {matrix.id: matrix_words(ctx, matrix) for matrix in matrices}
        if shown is not None:
            labels.setdefault(shown.id, matrix_words(ctx, shown))
        key = f"matrix_{prompt.name}_{shown.id if shown else ''}"
        chosen = st.selectbox(
            "Matrix",
            list(labels),
            index=list(labels).index(shown.id) if shown else None,
            format_func=by_identity(key, labels, labels.__getitem__),
            key=key,
            width=520,
        )
        if chosen and (shown is None or chosen != shown.id):
            st.query_params["matrix"] = chosen
            st.rerun()
    if shown is not None:
        (draw_running if shown.is_running else draw_prompt_matrix)(ctx, person, prompt.name, shown.id)
    with st.expander("Save as a task", icon=":material/grading:", key="prompt_task"):
        draw_task_of_prompt(ctx, person, version)


@number_form
def draw_form(ctx: Context, person: Person, prompt: PromptView, version: PromptVersionView) -> None:
    """Draw rows, endpoints and sampling, and the button that starts."""
    known = [*list_endpoints(ctx), *list_alias_endpoints(ctx), *list_adapter_endpoints(ctx)]
    names = [endpoint.name for endpoint in known if endpoint.stopped_at is None and endpoint.writes]
    if not names:
        empty_state(
            "No endpoint is running. Deploy or start one to try the prompt.", page=routes.ENDPOINTS, label="Endpoints"
        )
        return
    with st.container(border=True):
        endpoints = st.multiselect(
            "Endpoints", names, default=names[:1], max_selections=MAX_ENDPOINTS, key=f"try_endpoints_{prompt.name}"
        )
        rows: list[Row] | None = None
        source = ""
        with errors_shown():
            rows, source = draw_matrix_rows(ctx, version)
        left, right = st.columns(2)
        temperature = draw_number(
            left,
            "Temperature",
            0.0,
            2.0,
            0.0,
            is_whole=False,
            key="try_temperature",
            help="0 always takes the most likely token.",
        )
        tokens = draw_number(right, "Max new tokens", 1, 32_768, 160, key="try_tokens")
        count = 0 if rows is None else len(rows) * len(endpoints)
        missing = {
            "choose an endpoint": not endpoints,
            "enter rows": not rows,
            "enter temperature and max new tokens": temperature is None or tokens is None,
        }
        if form_button(
            f"Try {plural(count, 'answer')}" if count else "Try", missing, key=menu_key("try_prompt"), icon="play_arrow"
        ):
            with rerun_after():
                settings = AnswerSettings(temperature=float(temperature), top_p=1.0, max_tokens=int(tokens))
                started = start_matrix(
                    ctx,
                    prompt,
                    version.number,
                    rows=rows or [],
                    endpoints=endpoints,
                    settings=settings,
                    source=source,
                    person=person,
                )
                close_menu("try_prompt")
                st.query_params["matrix"] = started


def draw_matrix_rows(ctx: Context, version: PromptVersionView) -> tuple[list[Row] | None, str]:
    """Draw where the rows come from; return them with the name of their source, None where there is none yet."""
    variables = version.body.variables
    if not variables:
        st.caption("The prompt has no variable: it is asked once.")
        return [{}], ""
    way = choose_one("Rows", [TYPED, FROM_DATASET], key="try_rows_from")
    if way == TYPED:
        one = len(variables) == 1
        text = st.text_area(
            f"One {variables[0]} per line" if one else "One JSON object per line",
            key=f"try_rows_{version.id}",
            height=110,
            placeholder="" if one else "{" + ", ".join(f'"{name}": "…"' for name in variables) + "}",
        )
        return (read_typed_rows(text, variables) if text.strip() else None), "typed rows"
    if not list_datasets(ctx, ready=True):
        empty_state("There is no dataset yet.", page=routes.DATASETS, label="Import a dataset")
        return None, ""
    left, right = st.columns([3, 1])
    with left:
        newest = choose_dataset(ctx, key=f"try_dataset_{version.id}", placeholder="Choose one with these columns")
    limit = int(draw_number(right, "First rows", 1, MAX_ROWS, 5, key="try_limit") or 1)
    if newest is None:
        return None, ""
    return dataset_rows(ctx, newest, version.body, limit=limit), newest.label


def draw_prompt_matrix(ctx: Context, person: Person, prompt: str, matrix_id: str) -> None:
    """Draw a matrix as it is now, and the page again at its end."""
    matrix = get_matrix(ctx, matrix_id, prompt=prompt)
    answers = matrix.answers
    with st.container(horizontal=True, vertical_alignment="center"):
        colour, icon = BADGES[matrix.status]
        st.badge(matrix.status, color=colour, icon=f":material/{icon}:")  # type: ignore[arg-type]
        st.caption(plain(matrix_words(ctx, matrix)), width="content")
        st.space("stretch")
        if matrix.is_running:
            if st.button("Stop", icon=":material/stop:", key="stop_matrix"):
                with errors_shown():
                    stop_matrix(ctx, matrix_id, person=person)
        else:
            draw_confirmed(
                "Delete matrix",
                "Its answers are deleted.",
                partial(delete_and_show, ctx, matrix_id, person),
                key="delete_matrix",
            )
    if matrix.is_running:
        total = len(answers.cells)
        st.progress(answers.num_ended / max(1, total), text=f"{answers.num_ended} of {plural(total, 'answer')}")
        st.session_state["matrix_running"] = matrix_id
    elif st.session_state.get("matrix_running") == matrix_id:
        st.session_state.pop("matrix_running")
        st.rerun()  # the whole page: nothing more comes, so it is not read again
    draw_cells(answers, key=matrix_id)


draw_running = live_part(REFRESH_S)(draw_prompt_matrix)


def delete_and_show(ctx: Context, matrix_id: str, person: Person) -> None:
    """Delete a matrix, and show the newest of the others."""
    delete_matrix(ctx, matrix_id, person=person)
    st.query_params.pop("matrix", None)


def draw_cells(answers: MatrixAnswers, *, key: str) -> None:
    """Draw a row of answers for each row of data, as text: what a model writes is shown, not interpreted."""
    has_rows = any(answers.rows)
    shares = ({"Row ": 1.2} if has_rows else {}) | dict.fromkeys(answers.endpoints, 2.0)
    table = WidgetTable(f"matrix-{key}", shares, heading=1 if has_rows else 0, alignment="top")
    with table.frame():
        for number, row in enumerate(answers.rows):
            cells = table.row(str(number))
            if has_rows:
                with cells[0]:
                    draw_long("\n".join(f"{name}: {value}" for name, value in row.items()))
            for column, cell in enumerate(cells[has_rows:]):
                with cell:
                    draw_cell(answers.cell(number, column))


def draw_cell(cell: MatrixCell) -> None:
    """Draw one answer with its figures, or why there is none."""
    with st.container(gap="xsmall"):
        if cell.text:
            draw_long(visible(cell.text))
        if cell.status == "failed":
            st.error(plain(cell.error or "The answer failed."), icon=":material/error:")
        elif cell.status != "done":
            st.caption({"waiting": "Queued", "running": "Generating", "stopped": "Stopped"}[cell.status])
        elif not cell.text:
            st.caption("Empty answer")
        if cell.status == "done":
            st.caption(plain(cell_figures(cell)))


def cell_figures(cell: MatrixCell) -> str:
    """Return tokens, time and speed of an answer in a line."""
    parts = [] if cell.completion_tokens is None else [plural(cell.completion_tokens, "token")]
    parts += [] if cell.total_ms is None else [f"{cell.total_ms / 1000:.1f} s"]
    parts += [] if cell.tok_per_sec is None else [f"{cell.tok_per_sec:,.0f} tokens/s"]
    parts += ["reached the length limit"] if cell.finish_reason == "length" else []
    return " · ".join(parts)


def draw_long(text: str) -> None:
    """Draw a text with its line breaks; a long one by its beginning, and whole where it is opened."""
    beginning = "\n".join(text[:LONG].split("\n")[:7])
    if beginning == text:
        st.text(displayable(text))
        return
    st.text(f"{displayable(beginning)} …")
    with st.expander("Whole text"):
        st.text(displayable(text))


def matrix_words(ctx: Context, matrix: MatrixLine) -> str:
    """Return what was tried in a matrix, by whom and when, in a line."""
    parts = [
        f"Version {matrix.number}",
        f"{plural(matrix.num_rows, 'row')} × {plural(matrix.num_endpoints, 'endpoint')}",
        matrix.source,
        f"temperature {matrix.settings.temperature:g}",
        matrix.author,
        when(matrix.created_at, now=ctx.now()),
    ]
    return " · ".join(part for part in parts if part)


@number_form
def choose_dataset(ctx: Context, *, key: str, placeholder: str) -> VersionView | None:
    """Draw a choice among the datasets with rows; return the newest version of the chosen one."""
    datasets = {each.id: each for each in list_datasets(ctx, ready=True) if each.newest is not None}
    chosen = choose_from(
        "Dataset", datasets, words=lambda each: datasets[each].name, key=key, value=None, placeholder=placeholder
    )
    return datasets[chosen].newest if chosen else None


def draw_task_of_prompt(ctx: Context, person: Person, version: PromptVersionView) -> None:
    """Draw the form that makes a task of the version."""
    st.caption(
        "A task asks this prompt for each row of a dataset, and compares the answers with a column of expected ones."
    )
    name = st.text_input("Task name", key="prompt_task_name", max_chars=80, help="Letters, digits, _, - and .")
    dataset = choose_dataset(ctx, key=f"prompt_task_dataset_{version.id}", placeholder="Choose when evaluating")
    left, right = st.columns(2)
    expected = left.text_input("Column of the expected answer", key="prompt_task_expected", placeholder="answer")
    metric = right.selectbox("Metric", list(METRICS), format_func=METRICS.__getitem__, key="prompt_task_metric")
    tokens = draw_number(left, "Max new tokens", 1, 32_768, 160, key="prompt_task_tokens")
    missing = {
        "name the task": not name.strip(),
        "name the column": not expected.strip(),
        "enter max new tokens": tokens is None,
    }
    if form_button("Save task", missing, key="save_prompt_task", icon="grading"):
        with errors_shown():
            task = save_as_task(
                ctx,
                name,
                version.body,
                expected=expected.strip(),
                metric=metric,
                version=dataset,
                settings=AnswerSettings(temperature=0.0, max_tokens=int(tokens)),
                person=person,
            )
            st.session_state[f"prompt_task_saved_{version.id}"] = task.name
    if saved := st.session_state.get(f"prompt_task_saved_{version.id}"):
        st.success(plain(f"Saved the task “{saved}”."), icon=":material/check:")
        page_link(routes.EVALUATIONS, "Open the task", {"task": saved})
