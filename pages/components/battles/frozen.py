"""A snapshot of a board at its own address: ratings, options, hash, verification and downloads."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.domain.wording import percent, plural
from backend.services.battles.frozen_boards import FrozenBoardView, export_board, get_frozen_board, verify_board
from backend.services.context import Context
from pages.components import routes
from pages.components.battles.charts import IntervalMark, interval_chart
from pages.components.downloads import draw_download
from pages.components.frame import draw_plot, errors_shown, object_heading, plain
from pages.components.links import back_link
from pages.components.tables import draw_table
from pages.components.words import date_time

FORMS = {"json": "JSON with votes", "csv": "CSV", "html": "HTML page"}


def draw_frozen_board(ctx: Context, board_id: str) -> None:
    """Draw a frozen board. Raises NotFound."""
    board = get_frozen_board(ctx, board_id)
    back_link(board.campaign, page=routes.BATTLES, query={"campaign": board.campaign_id}, key="back_to_campaign")
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(board.name, width="content")
        st.badge("snapshot", icon=":material/ac_unit:", color="blue")
        st.space("stretch")
        for form, label in FORMS.items():
            draw_download(label, partial(export_board, board, form=form), f"board.{form}", key=f"board_{form}")
    by = f" by {board.by}" if board.by else ""
    votes = plural(board.num_votes, "vote")
    st.caption(plain(f"{board.campaign}, {votes}, taken {date_time(board.created_at, now=ctx.now())}{by}."))
    _draw_ratings(board)
    st.caption(plain(f"Method: {board.document['method']}."))
    for note in board.document["notes"]:
        st.caption(f":material/info: {plain(note)}")
    for left_out in board.document["excluded"]:
        st.caption(f":material/person_off: A rater is left out: {plain(left_out['reason'])}")
    st.caption("SHA-256 of votes, options and ratings")
    st.code(board.digest, language=None, wrap_lines=True)
    if st.button(
        "Verify", key="board_verify", icon=":material/verified:", help="Computes the hash and the ratings again."
    ):
        _draw_verification(ctx, board)


def _draw_ratings(board: FrozenBoardView) -> None:
    rows = board.ratings
    marks = [
        IntervalMark(
            row["contestant"],
            row["rating"],
            row["low"],
            row["high"],
            f"{row['rating']:.0f} [{row['low']:.0f}, {row['high']:.0f}]",
        )
        for row in rows
    ]
    level = board.document["options"]["level"]
    chart = interval_chart(marks, title=f"Rating, {percent(level)} interval", reference=1000.0)
    draw_plot(chart, key="frozen_chart", alt=f"{rows[0]['contestant']} leads with {rows[0]['rating']:.0f}")
    draw_table(
        [
            {
                "Rank": (
                    f"{row['rank_low']}"
                    if row["rank_low"] == row["rank_high"]
                    else f"{row['rank_low']}–{row['rank_high']}"
                ),
                "Contestant": row["contestant"],
                "Rating": f"{row['rating']:.0f}",
                "Interval": f"{row['low']:.0f} to {row['high']:.0f}",
                "Votes": row["votes"],
            }
            for row in rows
        ],
        key="frozen_table",
        alt="Ratings",
    )


def _draw_verification(ctx: Context, board: FrozenBoardView) -> None:
    with errors_shown():
        result = verify_board(ctx, board.id)
        if result.passed:
            version = "" if result.same_version else f" It was taken by version {result.version}."
            st.success(
                plain(
                    f"Verified: the hash is unchanged, and the {plural(result.num_votes, 'vote')} give the same"
                    f" ratings.{version}"
                ),
                icon=":material/verified:",
            )
        elif not result.digest_matches:
            st.error("The stored snapshot was changed after it was taken: its hash differs.", icon=":material/error:")
        else:
            st.error(
                plain(f"The votes give other ratings: {'; '.join(result.differences[:3])}"), icon=":material/error:"
            )
