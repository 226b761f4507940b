"""Evaluations: leaderboard, one evaluation (`?evaluation=`), a comparison (`?first=&second=`), the form (`?new=1`)."""

from __future__ import annotations

import streamlit as st

from backend.domain.evaluation.config import KIND_LABEL
from backend.services.checkpoints.checkpoints import get_checkpoint
from backend.services.context import Context
from backend.services.data.datasets import get_dataset
from backend.services.evaluation.comparisons import Cell, Column, Leaderboard, leaderboard, rank_column
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation, list_evaluations
from pages.components import routes
from pages.components.charts.style import STATIC
from pages.components.evaluation.charts import ScoreDot, score_figure
from pages.components.evaluation.evaluation import draw_comparison, draw_evaluation
from pages.components.evaluation.form import draw_form
from pages.components.evaluation.scores import interval_text, metric_label, p_text, score_text
from pages.components.frame import empty_state, page_frame
from pages.components.job_progress import status_badge
from pages.components.links import back_link, row_link
from pages.components.tables import WidgetTable, draw_table
from pages.components.words import ago

PAGE = routes.EVALUATIONS
TABLE = WidgetTable("evaluations", {"Checkpoint": 3.0, "Benchmark": 2.0, "Kind": 1.5, "Score": 2.4, "When": 1.1})
RANKS = WidgetTable(
    "ranking", {"Rank": 0.7, "Checkpoint": 3.0, "Score": 1.2, "95 % interval": 2.0, "Items": 1.1, "Significance": 1.6}, heading=2
)
SHOWN = 50


def draw_row(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw one row of the list."""
    columns = TABLE.row(evaluation.id)
    with columns[0]:
        row_link(evaluation.checkpoint, page=PAGE, query={"evaluation": evaluation.id}, icon="grading", key=f"open_{evaluation.id}")
    columns[1].text(evaluation.benchmark)
    columns[2].caption(KIND_LABEL[evaluation.kind])
    score = evaluation.main_score
    if score is not None:
        columns[3].text(f"{score_text(score.metric, score.value)} ({interval_text(score.metric, score.low, score.high) or 'no interval'})")
    elif evaluation.is_active:
        progress = evaluation.progress
        text = f"{progress.done:,.0f} of {progress.total:,.0f}" if progress and progress.total else "Waiting"
        columns[3].progress(progress.share if progress else 0.0, text=text)
    else:
        with columns[3]:
            status_badge(evaluation.status, ready="finished")
    columns[4].caption(ago(evaluation.created_at, now=ctx.now()))


def draw_list(ctx: Context) -> None:
    """Draw the newest evaluations, refreshed every two seconds while one is active."""
    active = bool(list_evaluations(ctx, active=True, limit=1))

    @st.fragment(run_every=2 if active else None)
    def rows() -> None:
        evaluations = list_evaluations(ctx, limit=SHOWN)
        if active and not any(evaluation.is_active for evaluation in evaluations):
            st.rerun()
        with TABLE.frame():
            for evaluation in evaluations:
                draw_row(ctx, evaluation)

    rows()


def column_label(column: Column) -> str:
    """Return a column's label."""
    return f"{column.benchmark} ({column.detail})" if column.detail else column.benchmark


def draw_ranking(ctx: Context, column: Column) -> None:
    """Draw one benchmark: scores with intervals, and the checkpoints not significantly below the best."""
    ranks = rank_column(ctx, column.key)
    dots = [ScoreDot(r.evaluation.checkpoint, r.score.value, r.score.low, r.score.high, r.shares_first_place) for r in ranks]
    chance = ranks[0].evaluation.facts.chance if column.metric == "acc" else None
    st.plotly_chart(
        score_figure(dots, metric=column.metric, chance=chance),
        key=f"ranking_{column.key}",
        config=STATIC,
        alt=f"{metric_label(column.metric)} of {len(dots)} checkpoints with intervals",
    )
    if len(ranks) > 1:
        st.caption(
            f"{'Lower' if column.lower_is_better else 'Higher'} is better. Filled dots are not significantly different from "
            "the best: all are judged together on the same items. Bars are 95 % confidence intervals."
        )
    with RANKS.frame():
        for number, rank in enumerate(ranks, 1):
            columns = RANKS.row(rank.evaluation.id)
            columns[0].text("1" if rank.shares_first_place else str(number))
            with columns[1]:
                row_link(
                    rank.evaluation.checkpoint,
                    page=PAGE,
                    query={"evaluation": rank.evaluation.id},
                    icon="deployed_code",
                    key=f"rank_{rank.evaluation.id}",
                )
            columns[2].text(score_text(column.metric, rank.score.value))
            columns[3].text(interval_text(column.metric, rank.score.low, rank.score.high) or "no interval")
            columns[4].text(f"{rank.score.n:,}")
            with columns[5]:
                if number == 1:
                    st.caption("best score")
                elif st.button(
                    p_text(rank.p_adjusted),
                    type="tertiary",
                    icon=":material/compare_arrows:",
                    key=f"versus_{rank.evaluation.id}",
                    wrap=True,
                ):
                    st.switch_page(PAGE, query_params={"first": ranks[0].evaluation.id, "second": rank.evaluation.id})


def new_button() -> None:
    """Draw the button that opens the form."""
    if st.button("New evaluation", type="primary", icon=":material/add:", key="eval_new"):
        st.switch_page(PAGE, query_params={"new": "1"})


def cell_text(column: Column, cell: Cell | None) -> str:
    """Format a cell: score and interval, empty without a score."""
    if cell is None:
        return ""
    return f"{score_text(column.metric, cell.score.value)} ({interval_text(column.metric, cell.score.low, cell.score.high)})"


def draw_board(ctx: Context, board: Leaderboard) -> None:
    """Draw the chosen benchmark, then a table of all."""
    columns = {column.key: column for column in board.columns}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = st.selectbox("Benchmark", list(columns), format_func=lambda k: column_label(columns[k]), key="board_column", width=420)
        st.space("stretch")
        new_button()
    draw_ranking(ctx, columns[key])
    if len(columns) > 1:
        with st.expander("All benchmarks", icon=":material/table:"):
            table = [
                {
                    "Checkpoint": name,
                    **{
                        f"{column_label(column)}, {metric_label(column.metric).lower()}": cell_text(column, cells.get(column.key))
                        for column in board.columns
                    },
                }
                for _, name, cells in board.rows
            ]
            draw_table(table, key="board_table", alt="Scores of all checkpoints on all benchmarks")


def check_address(ctx: Context, checkpoint_id: str | None, dataset_id: str | None) -> None:
    """Raise NotFound where the address names an unknown checkpoint or dataset, so that no other is evaluated in its place."""
    if checkpoint_id:
        get_checkpoint(ctx, checkpoint_id)
    if dataset_id:
        get_dataset(ctx, dataset_id)


def draw_overview(ctx: Context) -> None:
    """Draw the scores and the newest evaluations."""
    if not list_evaluations(ctx, limit=1):
        new_button()
        empty_state(
            "No evaluations yet. Score a checkpoint on a benchmark, or measure its loss on held-out text.",
            page=routes.CHECKPOINTS,
            label="Checkpoints",
            icon=":material/deployed_code:",
        )
        return
    board = leaderboard(ctx)
    if board.columns:
        draw_board(ctx, board)
    else:
        new_button()
    st.subheader("Newest evaluations", anchor=False)
    draw_list(ctx)


with page_frame("Evaluations", "Scores with confidence intervals, paired comparisons, and the items behind them.") as (ctx, person):
    query = st.query_params
    if "evaluation" in query:
        back_link("All evaluations", page=PAGE, key="eval_back")
        draw_evaluation(ctx, person, get_evaluation(ctx, query["evaluation"]))
    elif "first" in query and "second" in query:
        back_link("All evaluations", page=PAGE, key="eval_back")
        draw_comparison(ctx, query["first"], query["second"])
    elif "new" in query or "checkpoint" in query or "dataset" in query:
        back_link("All evaluations", page=PAGE, key="eval_back")
        check_address(ctx, query.get("checkpoint"), query.get("dataset"))
        launched = draw_form(ctx, person, checkpoint_id=query.get("checkpoint"), dataset_id=query.get("dataset"))
        if len(launched) == 1:
            st.switch_page(PAGE, query_params={"evaluation": launched[0].id})
        elif launched:
            st.switch_page(PAGE)
    else:
        draw_overview(ctx)
