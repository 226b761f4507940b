"""Board of a campaign whose raters grade single answers: a mark with its interval for each contestant."""

from __future__ import annotations

import streamlit as st

from backend.domain.battles.answer_ratings import GradedContestant, Scale
from backend.domain.wording import percent, plural
from backend.services.battles.grades import GradeBoard
from pages.components.battles.charts import IntervalMark, interval_chart
from pages.components.frame import draw_plot
from pages.components.tables import draw_table

TITLES: dict[Scale, str] = {"thumbs": "Share of good answers", "stars": "Mean of 1 to 5 stars"}


def draw_grades(board: GradeBoard) -> None:
    """Draw the contestants' marks as a chart and as a table."""
    title = TITLES[board.scale]
    with_interval = [row for row in board.contestants if row.score.low is not None and row.score.high is not None]
    if with_interval:
        marks = [_chart_mark(row, board.scale) for row in with_interval]
        draw_plot(
            interval_chart(marks, title=f"{title}, 95 % interval"),
            key="grades_chart",
            alt=f"{with_interval[0].contestant} leads with {_mark(with_interval[0].score.value, board.scale)}",
        )
    draw_table([_line(row, board.scale) for row in board.contestants], key="grades_table", alt=title)
    st.caption(
        "Intervals are clustered by prompt and rater. Overlapping ones may still differ: compare the answers in pairs"
        " to decide."
    )
    if board.num_excluded:
        st.caption(f":material/person_off: {plural(board.num_excluded, 'rating')} of excluded raters left out.")


def _chart_mark(row: GradedContestant, scale: Scale) -> IntervalMark:
    low, high = row.score.low or 0.0, row.score.high or 0.0
    hover = f"{_mark(row.score.value, scale)} [{_mark(low, scale)}, {_mark(high, scale)}], {row.ratings} ratings"
    return IntervalMark(row.contestant, row.score.value, low, high, hover)


def _line(row: GradedContestant, scale: Scale) -> dict[str, object]:
    low, high = row.score.low, row.score.high
    return {
        "Contestant": row.contestant,
        TITLES[scale]: _mark(row.score.value, scale),
        "Interval": f"{_mark(low, scale)} to {_mark(high, scale)}" if low is not None and high is not None else None,
        "Ratings": row.ratings,
        "Prompts": row.prompts,
        "Raters": row.raters,
    }


def _mark(value: float, scale: Scale) -> str:
    return percent(value) if scale == "thumbs" else f"{value:.2f}"
