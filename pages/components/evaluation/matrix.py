"""Matrix of checkpoints by benchmarks: the best of a column and those tied with it, runs missing, under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.domain.jobs.states import Status
from backend.domain.wording import format_duration, percent, plural
from backend.services.context import Context, Person
from backend.services.evaluation.board import Board, BoardRow, Cell, Column, rank_board, read_board, void_reason_of
from backend.services.evaluation.comparisons import Rank
from backend.services.evaluation.evaluations import EvaluationView, launch_evaluation
from pages.components import routes
from pages.components.choices import by_identity, choose_from
from pages.components.frame import live_part, plain, rerun_after, spoken
from pages.components.links import row_link
from pages.components.tables import WidgetTable

PAGE = routes.EVALUATIONS
ROWS, COLUMNS, LISTED = 15, 6, 4
"""Checkpoints on one page of the matrix, benchmarks shown at first, evaluations without scores that are named."""
LEGEND = (
    ":material/trophy: best score, alone and above chance. **tied** not significantly different from the best on the"
    " same items, adjusted for the checkpoints of the column (step-down, Romano and Wolf). :material/warning: score"
    " with a caveat, :red[:material/error:] no score of the benchmark, since every item was cut. ↓ lower is better."
    " Below each score: 95 % confidence interval."
)


def metric_of(column: Column) -> str:
    """Return the metric that the visitor chose for a column, or its own."""
    chosen = st.session_state.get(f"metric_{column.key}")
    return chosen if chosen in column.metrics else column.metric


def metric_title(column: Column, metric: str) -> str:
    """Return a metric's label, and over what it is averaged: `Accuracy (macro over 57 subgroups)`."""
    average = column.averages.get(metric)
    return f"{score_label(metric.partition(':')[0])} ({average})" if average else score_label(metric)


def draw_metric_choice(column: Column) -> None:
    """Draw the choice of the metric that a column shows."""
    if len(column.metrics) > 1:
        choose_from(
            "Metric",
            column.metrics,
            words=partial(metric_title, column),
            key=f"metric_{column.key}",
            value=column.metric,
            width=320,
        )


def draw_matrix(ctx: Context, person: Person, board: Board) -> None:
    """Draw filters and the matrix, refreshed every two seconds while an evaluation is active."""
    columns = _draw_filters(board)
    text = str(st.session_state.get("matrix_filter") or "").casefold()

    @live_part(2 if board.is_active else None)
    def table() -> None:
        now = read_board(ctx) if board.is_active else board
        if (board.is_active and not now.is_active) or {c.key for c in columns} - {c.key for c in now.columns}:
            st.rerun()
        rows = [row for row in now.rows if text in row.checkpoint.casefold()]
        shown, number = _draw_pages(rows)
        metrics = {column.key: metric_of(column) for column in columns}
        ranks = rank_board(ctx, now, [column.key for column in columns], metrics=metrics)
        _draw_table(ctx, person, now, columns, shown, metrics=metrics, ranks=ranks, page=number)

    table()
    st.caption(LEGEND)
    for column in columns:
        if column.telling is not None and metric_of(column) == column.metric:
            words = (
                f"{column.label}: every score of {score_label(column.metric).lower()} is 0."
                f" {score_label(column.telling)}"
            )
            st.caption(plain(f"{words} tells the checkpoints apart: choose it under Metrics."))
    _draw_without_scores(board)


def _draw_without_scores(board: Board) -> None:
    """Draw links to evaluations that ended without scores and have no column, the newest ones."""
    if not board.without_scores:
        return
    newest = sorted(board.without_scores, key=lambda evaluation: evaluation.created_at, reverse=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{plural(len(newest), 'evaluation')} without scores:", width="content")
        for evaluation in newest[:LISTED]:
            title = evaluation.config.task.shown_title if evaluation.config.task else evaluation.benchmark
            row_link(
                f"{title} on {evaluation.checkpoint}",
                page=PAGE,
                query={"evaluation": evaluation.id},
                icon="error" if evaluation.status is Status.FAILED else "block",
                key=f"without_{evaluation.id}",
            )


def show_columns(board: Board, evaluations: Sequence[EvaluationView]) -> None:
    """Let the matrix show the columns of these evaluations when it is drawn next."""
    ids = {evaluation.id for evaluation in evaluations}
    cells = [(key, cell) for row in board.rows for key, cell in row.cells.items()]
    keys = {key for key, cell in cells if ids & {one.id for one in (cell.finished, cell.pending) if one}}
    st.session_state["matrix_columns"] = [column.key for column in board.columns if column.key in keys]
    st.session_state["matrix_filter"] = ""


def _draw_filters(board: Board) -> list[Column]:
    """Draw the filters; return the columns that are shown."""
    labels = {column.key: column.label for column in board.columns}
    chosen_before = st.session_state.get("matrix_columns", _fullest(board))
    st.session_state["matrix_columns"] = list(dict.fromkeys(board.renamed.get(key, key) for key in chosen_before))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Checkpoints", key="matrix_filter", placeholder="All; type to filter", width=240)
        chosen = st.multiselect(
            "Benchmarks",
            list(labels),
            format_func=by_identity("matrix_columns", labels, labels.__getitem__),
            key="matrix_columns",
            placeholder="All",
            width="stretch",
        )
        with st.popover("Metrics", icon=":material/tune:"):
            for column in board.columns:
                if column.key in (chosen or labels) and len(column.metrics) > 1:
                    choose_from(
                        spoken(column.label),
                        column.metrics,
                        words=partial(metric_title, column),
                        key=f"metric_{column.key}",
                        value=metric_of(column),
                    )
    return [column for column in board.columns if column.key in chosen or not chosen][: 2 * COLUMNS]


def _fullest(board: Board) -> list[str]:
    """Return the keys of the columns with the most scores, in the board's order."""
    count = {column.key: len(board.scored(column.key)) for column in board.columns}
    fullest = set(sorted(count, key=lambda key: -count[key])[:COLUMNS])
    return [key for key in count if key in fullest]


def _best_alone(ranks: Mapping[str, Rank]) -> str | None:
    """Return the evaluation with the best score, if it beats another one and is not a score of nothing: 0, or of items
    that were all cut.
    """
    best = list(ranks.values())[:2]
    if len(best) < 2 or best[0].score.value == best[1].score.value or void_reason_of(best[0].evaluation):
        return None
    first = best[0].score
    return best[0].evaluation.id if first.value or is_score_lower_better(first.metric) else None


def _draw_pages(rows: Sequence[BoardRow]) -> tuple[Sequence[BoardRow], int]:
    pages = max(1, -(-len(rows) // ROWS))
    number = 1
    if pages > 1:
        number = int(st.number_input(f"Page, 1 to {pages}", 1, pages, key="matrix_page", width=130))
    return rows[(number - 1) * ROWS : number * ROWS], number


def _draw_table(
    ctx: Context,
    person: Person,
    board: Board,
    columns: Sequence[Column],
    rows: Sequence[BoardRow],
    *,
    metrics: Mapping[str, str],
    ranks: Mapping[str, Mapping[str, Rank]],
    page: int,
) -> None:
    if not rows:
        st.caption("No checkpoint or endpoint has this name.")
        return
    titles = {_title(column, metrics[column.key]): 1.6 for column in columns}
    table = WidgetTable("matrix", {"Checkpoint": 2.2, **titles})
    with table.frame():
        heads = table.row("heads")
        heads[0].caption("Leaderboards")
        for place, column in zip(heads[1:], columns, strict=True):
            with place:
                row_link(
                    "Open", page=PAGE, query={"benchmark": column.key}, icon="leaderboard", key=f"board_{column.key}"
                )
        for row in rows:
            places = table.row(row.subject_id)
            with places[0]:
                row_link(
                    row.checkpoint,
                    page=PAGE if row.is_endpoint else routes.CHECKPOINTS,
                    query={"endpoint" if row.is_endpoint else "checkpoint": row.subject_id},
                    icon="dns" if row.is_endpoint else "deployed_code",
                    key=f"matrix_{page}_{row.subject_id}",
                    help="Endpoint" if row.is_endpoint else None,
                )
            for place, column in zip(places[1:], columns, strict=True):
                cell = row.cells.get(column.key, Cell())
                _draw_cell(
                    ctx, person, place, row, column, cell, metric=metrics[column.key], ranks=ranks.get(column.key, {})
                )
        _draw_chance(table, columns, board, metrics)


def _draw_chance(table: WidgetTable, columns: Sequence[Column], board: Board, metrics: Mapping[str, str]) -> None:
    """Draw what guessing scores on each benchmark with choices, as the last row."""
    shares = [
        next((one.facts.chance for one in board.scored(column.key)), None)
        if metrics[column.key] in ("acc", "acc_norm")
        else None
        for column in columns
    ]
    if all(share is None for share in shares):
        return
    places = table.row("chance")
    places[0].caption("Chance")
    for place, share in zip(places[1:], shares, strict=True):
        place.caption("" if share is None else plain(percent(share, digits=1)))


def _title(column: Column, metric: str) -> str:
    return f"{column.label} · {metric_title(column, metric)}{' ↓' if is_score_lower_better(metric) else ''}"


def _draw_cell(
    ctx: Context,
    person: Person,
    place: DeltaGenerator,
    row: BoardRow,
    column: Column,
    cell: Cell,
    *,
    metric: str,
    ranks: Mapping[str, Rank],
) -> None:
    key = f"{column.key}_{row.subject_id}"
    with place.container(gap=None):
        if cell.finished is not None:
            rank = ranks.get(cell.finished.id)
            shared = sum(each.shares_first_place for each in ranks.values()) > 1
            _draw_score(cell, metric=metric, rank=rank, first=_best_alone(ranks), shared=shared, key=key)
        if cell.pending is not None:
            draw_pending(cell.pending, key=key)
        elif cell.finished is None and st.button(
            "Run",
            type="tertiary",
            icon=":material/play_arrow:",
            key=f"run_{key}",
            help=plain(f"{column.label} on {row.checkpoint}"),
        ):
            with rerun_after():
                checkpoint, endpoint = (None, row.subject_id) if row.is_endpoint else (row.subject_id, None)
                launch_evaluation(
                    ctx,
                    checkpoint=checkpoint,
                    endpoint=endpoint,
                    benchmark=column.version_id,
                    config=column.config,
                    person=person,
                )


def _draw_score(cell: Cell, *, metric: str, rank: Rank | None, first: str | None, shared: bool, key: str) -> None:
    evaluation = cell.finished
    score = evaluation.score(metric) if evaluation else None
    if evaluation is None or score is None:
        st.caption(f"no {score_label(metric).lower()}")
        return
    chance = evaluation.facts.chance
    is_first = evaluation.id == first and (chance is None or score.low is None or score.low > chance)
    mark = ":material/trophy: " if is_first else ""
    mark += ":red[:material/error:] " if cell.void_reason else ":material/warning: " if cell.caveats else ""
    value = plain(score_text(metric, score.value))
    label = mark + (f"**{value}**" if is_first else value)
    details = "; ".join([f"{score.n:,} items", *([cell.void_reason] if cell.void_reason else cell.caveats)])
    if st.button(label, type="tertiary", key=f"cell_{key}", help=plain(details)):
        st.switch_page(PAGE, query_params={"evaluation": evaluation.id})
    shares = rank is not None and rank.shares_first_place and evaluation.id != first  # the best is tied with others
    tied = "tied · " if shares and shared and not cell.void_reason else ""
    st.caption(tied + plain(interval_text(metric, score.low, score.high) or "no interval"))


def draw_pending(evaluation: EvaluationView, *, key: str) -> None:
    """Draw an evaluation that waits, runs or ended without its main score, as a link to it."""
    progress = evaluation.progress
    if evaluation.is_active and progress and progress.total:
        label, icon = f"{progress.done:,.0f} of {progress.total:,.0f}", "progress_activity"
        label += f", {format_duration(progress.left_s)} left" if progress.left_s else ""
    elif evaluation.status is Status.FINISHED:
        label, icon = f"No {score_label(evaluation.main_metric).lower()}", "check"
    elif evaluation.is_active:
        label, icon = "Waiting" if evaluation.status is Status.QUEUED else "Starting", "schedule"
    else:
        label, icon = ("Failed", "error") if evaluation.status is Status.FAILED else ("Stopped", "block")
    row_link(label, page=PAGE, query={"evaluation": evaluation.id}, icon=icon, key=f"pending_{key}")
    if evaluation.status is Status.RUNNING and progress and progress.total:
        st.progress(progress.share)
