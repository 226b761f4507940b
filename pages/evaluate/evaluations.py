"""Evaluations: the matrix, one benchmark (`?benchmark=`), one evaluation (`?evaluation=`), a comparison
(`?first=&second=`), the form.

The form opens with `?new=1`, or for a checkpoint, endpoint or dataset with `?checkpoint=`, `?endpoint=` or `?dataset=`.
"""

from __future__ import annotations

import streamlit as st

from backend.domain.evaluation.score_text import interval_text, score_text
from backend.domain.evaluation.tasks.definition import KIND_LABELS
from backend.services.checkpoints.checkpoints import get_checkpoint
from backend.services.context import Context, Person
from backend.services.data.datasets import get_dataset
from backend.services.evaluation.board import Board, read_board, void_reason_of
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation, list_evaluations
from pages.components import routes
from pages.components.evaluation.endpoints import draw_evaluated_endpoints
from pages.components.evaluation.evaluation import draw_evaluation, draw_paired_comparison
from pages.components.evaluation.exchange import draw_board_exchange
from pages.components.evaluation.form import draw_evaluation_form
from pages.components.evaluation.gate import draw_gates
from pages.components.evaluation.judge import draw_judgement, draw_judgements
from pages.components.evaluation.leaderboard import draw_leaderboard
from pages.components.evaluation.matrix import draw_matrix, draw_pending, show_columns
from pages.components.evaluation.safety import draw_endpoint_safety, draw_probes
from pages.components.evaluation.suites import draw_suite, draw_suites
from pages.components.evaluation.task_form import draw_task, draw_tasks
from pages.components.frame import empty_state, live_part, object_heading, page_frame, plain
from pages.components.links import back_link, row_link
from pages.components.tables import WidgetTable
from pages.components.words import when

PAGE = routes.EVALUATIONS
TABLE = WidgetTable("evaluations", {"Checkpoint": 3.0, "Benchmark": 2.0, "Scoring": 1.5, "Score": 2.4, "When": 1.1})
SHOWN = 20
INNER = (
    *("benchmark", "evaluation", "first", "new", "checkpoint", "dataset", "safety", "endpoint", "endpoints"),
    *("suite", "suites", "gates", "judges", "tasks", "safety_of"),
)
"""Names in the address of what has a page of its own, beside those of OTHERS."""
OTHERS = ("task", "judgement", "gate")
"""Names of what leads back to a list of its own."""


def draw_evaluation_row(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw one row of the list."""
    columns = TABLE.row(evaluation.id)
    with columns[0]:
        row_link(evaluation.checkpoint, page=PAGE, query={"evaluation": evaluation.id}, key=f"open_{evaluation.id}")
    columns[1].text(evaluation.benchmark)
    columns[2].caption(
        plain(evaluation.config.task.shown_title if evaluation.config.task else KIND_LABELS[evaluation.kind])
    )
    score = evaluation.main_score
    with columns[3]:
        if score is not None:
            st.text(
                f"{score_text(score.metric, score.value)}"
                f" ({interval_text(score.metric, score.low, score.high) or 'no interval'})"
            )
            if void_reason_of(evaluation):
                st.caption(":red[:material/error: every item was cut by the context]")
        else:
            draw_pending(evaluation, key=f"list_{evaluation.id}")
    columns[4].caption(when(evaluation.created_at, now=ctx.now()))


def draw_evaluation_list(ctx: Context, board: Board) -> None:
    """Draw the newest evaluations, refreshed every two seconds while one is active."""

    @live_part(2 if board.is_active else None)
    def rows() -> None:
        with TABLE.frame():
            for evaluation in list_evaluations(ctx, limit=SHOWN):
                draw_evaluation_row(ctx, evaluation)

    rows()


def check_page_address(ctx: Context, checkpoint_id: str | None, dataset_id: str | None) -> None:
    """Raise NotFound where the address names an unknown checkpoint or dataset, so that no other is evaluated."""
    if checkpoint_id:
        get_checkpoint(ctx, checkpoint_id)
    if dataset_id:
        get_dataset(ctx, dataset_id)


def draw_overview(ctx: Context, person: Person) -> None:
    """Draw the matrix and the newest evaluations."""
    board = read_board(ctx)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("New evaluation", type="primary", icon=":material/add:", key="eval_new"):
            st.switch_page(PAGE, query_params={"new": "1"})
        row_link("Suites", page=PAGE, query={"suites": "1"}, icon="checklist", key="eval_suites")
        row_link("Judges", page=PAGE, query={"judges": "1"}, icon="gavel", key="eval_judges")
        row_link("Tasks", page=PAGE, query={"tasks": "1"}, icon="assignment", key="eval_tasks")
        row_link("Safety probes", page=PAGE, query={"safety": "1"}, icon="shield", key="eval_safety")
        row_link("Evaluated endpoints", page=PAGE, query={"endpoints": "1"}, icon="dns", key="eval_endpoints")
        row_link("Gates", page=PAGE, query={"gates": "1"}, icon="rule", key="eval_gates")
    if not board.rows:
        empty_state(
            "No evaluations yet. Score a checkpoint on a benchmark, or measure its loss on held-out text.",
            page=routes.CHECKPOINTS,
            label="Checkpoints",
            icon=":material/deployed_code:",
        )
        return
    draw_matrix(ctx, person, board)
    exchange = st.expander("Export and import", icon=":material/swap_vert:", key="eval_exchange", on_change="rerun")
    if exchange.open:
        with exchange:
            draw_board_exchange(ctx, person)
    newest = st.expander("Newest evaluations", icon=":material/history:", key="eval_newest", on_change="rerun")
    if newest.open:
        with newest:
            draw_evaluation_list(ctx, board)


def draw_new(ctx: Context, person: Person) -> None:
    """Draw the form; after the launch go to the evaluation, or to the matrix of several."""
    query = st.query_params
    check_page_address(ctx, query.get("checkpoint"), query.get("dataset"))
    object_heading("New evaluation")
    launched = draw_evaluation_form(
        ctx,
        person,
        checkpoint_id=query.get("checkpoint"),
        dataset_id=query.get("dataset"),
        endpoint_key=query.get("endpoint"),
    )
    if len(launched) == 1:
        st.switch_page(PAGE, query_params={"evaluation": launched[0].id})
    elif launched:
        show_columns(read_board(ctx), launched)
        st.switch_page(PAGE, query_params={})


with page_frame(
    "Evaluations",
    "Scores with confidence intervals, paired comparisons, and the items behind them.",
    objects=(*INNER, *OTHERS),
) as (ctx, person):
    query = st.query_params
    if "task" in query:
        back_link("All tasks", page=PAGE, key="task_back", query={"tasks": "1"})
    elif "suite" in query:
        back_link("All suites", page=PAGE, key="suite_back", query={"suites": "1"})
    elif any(name in query for name in INNER):
        back_link("All evaluations", page=PAGE, key="eval_back")
    elif "judgement" in query:
        back_link("All judgements", page=PAGE, key="judge_back", query={"judges": "1"})
    elif "gate" in query:
        back_link("All gates", page=PAGE, key="gate_back", query={"gates": "1"})
    if "evaluation" in query:
        draw_evaluation(ctx, person, get_evaluation(ctx, query["evaluation"]))
    elif "first" in query and "second" in query:
        draw_paired_comparison(ctx, query["first"], query["second"])
    elif "suite" in query:
        draw_suite(ctx, person, query["suite"])
    elif "judgement" in query:
        draw_judgement(ctx, person, query["judgement"])
    elif "judges" in query:
        draw_judgements(ctx, person, evaluation_id=query["judges"] if query["judges"] != "1" else "")
    elif "suites" in query:
        draw_suites(ctx, person)
    elif "task" in query:
        draw_task(ctx, person, query["task"], dataset_id=query.get("dataset"))
    elif "tasks" in query:
        draw_tasks(ctx)
    elif "benchmark" in query:
        draw_leaderboard(ctx, read_board(ctx), query["benchmark"])
    elif "endpoints" in query:
        draw_evaluated_endpoints(ctx, person)
    elif {"new", "checkpoint", "dataset", "endpoint"} & set(query):
        draw_new(ctx, person)
    elif "gate" in query or "gates" in query:
        draw_gates(ctx, person, query.get("gate", ""))
    elif "safety_of" in query:
        draw_endpoint_safety(ctx, person, query["safety_of"])
    elif "safety" in query:
        draw_probes(ctx, person)
    else:
        draw_overview(ctx, person)
