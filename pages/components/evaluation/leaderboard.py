"""Leaderboard of one benchmark: dots with intervals, who is tied for first, and any two rows against each other."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.evaluation.score_text import interval_text, p_text, score_text
from backend.services.context import Context
from backend.services.evaluation.board import Board, Column, caveats_of, void_reason_of
from backend.services.evaluation.comparisons import Rank, order_pair, rank_evaluations
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.evaluation.charts import ScoreDot, score_figure
from pages.components.evaluation.endpoints import subject_label
from pages.components.evaluation.matrix import draw_metric_choice, metric_of, metric_title
from pages.components.frame import draw_plot, empty_state, object_heading, plain
from pages.components.links import row_link
from pages.components.tables import WidgetTable, draw_table

PAGE = routes.EVALUATIONS
RANKS = WidgetTable(
    "ranking",
    {"Rank": 0.9, "Checkpoint": 3.0, "Score": 1.4, "95 % interval": 2.0, "Items": 1.0, "Adjusted p": 1.6},
    heading=2,
)


def draw_leaderboard(ctx: Context, board: Board, key: str) -> None:
    """Draw the leaderboard of a column of the board."""
    column = board.column(key)
    if column is None:
        empty_state("This leaderboard has no scores any more.", page=PAGE, label="All evaluations")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        object_heading(column.label)
        draw_metric_choice(column)
    metric = metric_of(column)
    ranks = rank_evaluations(ctx, board.scored(column.key), metric=metric)
    if not ranks:
        empty_state("No finished evaluation has this metric yet.", page=PAGE, label="All evaluations")
        return
    _draw_figure(ranks, column, metric=metric)
    _draw_ranks(ctx, ranks, metric=metric)
    _draw_pair(ctx, ranks)
    _draw_imported(board, column, metric=metric)


def _draw_figure(ranks: Sequence[Rank], column: Column, *, metric: str) -> None:
    dots = [
        ScoreDot(
            subject_label(rank.evaluation), rank.score.value, rank.score.low, rank.score.high, rank.shares_first_place
        )
        for rank in ranks
    ]
    chance = ranks[0].evaluation.facts.chance if metric in ("acc", "acc_norm") else None
    draw_plot(
        score_figure(dots, metric=metric, chance=chance),
        key=f"ranking_{column.key}_{metric}",
        alt=f"{metric_title(column, metric)} of {len(dots)} checkpoints with intervals",
    )
    words = f"{'Lower' if is_score_lower_better(metric) else 'Higher'} is better. Bars are 95 % confidence intervals."
    if len(ranks) > 1:
        words += (
            " Filled dots are tied for first: not significantly different from the best, all judged together on the"
            " same items."
        )
        words += (
            " In brackets: 95 % interval of the rank. Adjusted p: for a shared first place, corrected for all"
            " checkpoints shown"
        )
        words += " (step-down, Romano and Wolf)."
    st.caption(words)


def _rank_text(rank: Rank, number: int) -> str:
    place = "1" if rank.shares_first_place else str(number)
    return (
        place
        if rank.rank_low is None or rank.rank_low == rank.rank_high
        else f"{place} ({rank.rank_low}–{rank.rank_high})"
    )


def _draw_ranks(ctx: Context, ranks: Sequence[Rank], *, metric: str) -> None:
    with RANKS.frame():
        for number, rank in enumerate(ranks, 1):
            columns = RANKS.row(rank.evaluation.id)
            columns[0].text(_rank_text(rank, number))
            with columns[1]:
                row_link(
                    rank.evaluation.checkpoint,
                    page=PAGE,
                    query={"evaluation": rank.evaluation.id},
                    icon="dns" if rank.evaluation.endpoint else "deployed_code",
                    key=f"rank_{rank.evaluation.id}",
                )
            with columns[2]:
                st.text(score_text(metric, rank.score.value))
                if reason := void_reason_of(rank.evaluation):
                    st.caption(f":red[:material/error: {plain(reason)}]")
                else:
                    for caveat in caveats_of(rank.evaluation):
                        st.caption(f":material/warning: {plain(caveat)}")
            columns[3].text(interval_text(metric, rank.score.low, rank.score.high) or "no interval")
            columns[4].text(f"{rank.score.n:,}")
            with columns[5]:
                if number == 1:
                    is_best = len(ranks) > 1 and rank.score.value != ranks[1].score.value
                    st.caption("best score" if is_best else "equal scores" if len(ranks) > 1 else "only score")
                elif st.button(
                    p_text(rank.p_adjusted),
                    type="tertiary",
                    icon=":material/compare_arrows:",
                    key=f"versus_{rank.evaluation.id}",
                    wrap=True,
                ):
                    st.switch_page(PAGE, query_params=order_pair(ctx, ranks[0].evaluation, rank.evaluation))


def _draw_pair(ctx: Context, ranks: Sequence[Rank]) -> None:
    """Draw the choice of two rows to compare."""
    if len(ranks) < 2:
        st.caption("Evaluate another checkpoint with the same settings to compare item by item.")
        return
    names = {rank.evaluation.id: subject_label(rank.evaluation) for rank in ranks}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        first = choose_from("Compare", names, key="pair_first", width=300)
        others = [key for key in names if key != first]
        second = choose_from("with", others, words=names.__getitem__, key=f"pair_second_{first}", width=300)
        if st.button("Compare items", icon=":material/compare_arrows:", key="pair_compare"):
            by_id = {rank.evaluation.id: rank.evaluation for rank in ranks}
            st.switch_page(PAGE, query_params=order_pair(ctx, by_id[first], by_id[second]))


def _draw_imported(board: Board, column: Column, *, metric: str) -> None:
    rows = []
    for row in board.imported:
        score = next((one for one in row.cells.get(column.key, ()) if one.metric == metric), None)
        if score is not None:
            interval = interval_text(metric, score.low, score.high)
            rows.append(
                {
                    "Model": row.model,
                    "Score": score_text(metric, score.value),
                    "95 % interval": interval,
                    "Source": row.source,
                }
            )
    if rows:
        st.markdown("**Imported scores**")
        st.caption(
            "Measured by other programs, with settings that may differ. They are not ranked and not tested against"
            " ours."
        )
        draw_table(rows, key=f"imported_{column.key}", alt="Imported scores")
