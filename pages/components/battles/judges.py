"""Judges of a campaign: agreement with the raters, the raters' own to compare it with, and ratings beside."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from backend.domain.battles.rating_table import RatingTable
from backend.domain.statistics.estimates import Estimate
from backend.domain.wording import percent, plural, shorten
from backend.services.context import Context
from backend.services.evaluation.judges.campaigns import JudgeColumn, JudgesView, judges_of
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.frame import plain
from pages.components.links import row_link
from pages.components.tables import draw_table
from pages.components.words import when


def draw_judges(ctx: Context, campaign_id: str, table: RatingTable) -> None:
    """Draw the judges' columns, or the way to a judge."""
    judges = judges_of(ctx, campaign_id)
    if judges is None:
        st.caption(
            "A judge model can read the same battles in both orders. Its verdicts stay beside the board and never count"
            " as votes."
        )
    else:
        _draw_agreement(ctx, judges)
        _draw_ratings(_choose_judgements(ctx, judges), table)
    row_link("Judges", page=routes.EVALUATIONS, query={"judges": "1"}, icon="gavel", key="to_judges")


def _time(ctx: Context, column: JudgeColumn) -> str:
    return when(column.created_at, now=ctx.now(), with_seconds=True)


def _choose_judgements(ctx: Context, judges: JudgesView) -> list[JudgeColumn]:
    """Return the judgement of each judge that its ratings are from: its newest, unless another is chosen."""
    by_judge: dict[str, dict[str, JudgeColumn]] = {}
    for column in judges.columns:
        by_judge.setdefault(column.judge, {})[column.job_id] = column
    chosen = []
    for judge, judgements in by_judge.items():
        labels = {key: f"{_time(ctx, one)}: {shorten(one.criteria, 60)}" for key, one in judgements.items()}
        key = next(iter(judgements))
        if len(judgements) > 1:
            label = f"Judgement of {plain(judge)} for the ratings"
            key = choose_from(label, labels, key=f"judgement_of_{judge}", help="The newest judgement comes first.")
        chosen.append(judgements[key])
    return chosen


def _draw_agreement(ctx: Context, judges: JudgesView) -> None:
    rows = [
        {
            "Judge": column.judge,
            "Judged": _time(ctx, column),
            "Criteria": shorten(column.criteria, 60),
            "Empty answers": {None: "not tried", True: "told apart", False: "not told apart"}[column.is_trusted],
            "Agreement": _with_interval(column.agreement.percent_agreement, percent),
            "Without ties": _with_interval(column.agreement.without_ties, percent),
            "Kappa": _with_interval(column.agreement.kappa, "{:.2f}".format),
            "Pairs of verdict and vote": column.agreement.num_pairs,
        }
        for column in judges.columns
    ]
    for column in judges.columns:
        if column.is_trusted is False:
            st.error(
                plain(
                    f"{column.judge} does not tell an empty answer from a real one in the judgement of"
                    f" {_time(ctx, column)}. Do not rely on these verdicts."
                ),
                icon=":material/report:",
            )
    ceiling = judges.ceiling
    people = {
        "Judge": "raters with each other",
        "Agreement": _with_interval(ceiling.percent_agreement, percent),
        "Kappa": _with_interval(ceiling.alpha, "{:.2f}".format),
    }
    draw_table([*rows, people], key="judge_agreement", alt="Agreement of judges with raters")
    st.caption(
        f"The raters' own agreement, on {plural(ceiling.num_items, 'shared battle')}, is what to compare a judge with; "
        "beside kappa it shows Krippendorff's alpha. Kappa is with all votes of today, its interval by prompts."
    )


def _draw_ratings(columns: list[JudgeColumn], table: RatingTable) -> None:
    rows: list[dict[str, object]] = []
    for contestant in table.contestants:
        row: dict[str, object] = {"Contestant": contestant, "Raters": round(table.rating(contestant).rating)}
        for column in columns:
            rating = column.ratings.get(contestant)
            row[f"Judge {column.judge}"] = round(rating) if rating is not None else None
        rows.append(row)
    draw_table(rows, key="judge_ratings", alt="Ratings by raters and by judges")


def _with_interval(estimate: Estimate | None, write: Callable[[float], str]) -> str:
    if estimate is None:
        return "–"
    return f"{write(estimate.value)}{estimate.bracketed(write)}"
