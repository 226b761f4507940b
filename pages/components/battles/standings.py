"""Standings of a campaign: leaderboard, verdicts, win matrix, bias checks, raters."""

from __future__ import annotations

import streamlit as st

from backend.domain.battles.verdicts import PairVerdict
from backend.domain.wording import plural
from backend.services.battles.raters import LOCAL_RATER, RaterRow, create_rater_link, list_raters, revoke_rater_link
from backend.services.battles.standings import Standings
from backend.services.battles.views import CampaignView
from backend.services.context import Context, Person
from pages.components.battles.charts import interval_chart, rating_marks, win_chart
from pages.components.charts.style import STATIC
from pages.components.frame import errors_shown, plain
from pages.components.tables import draw_table
from pages.components.words import day

BADGES = {
    "better": ("decided", "green", "check_circle"),
    "worse": ("decided", "green", "check_circle"),
    "undecided": ("open", "gray", "pending"),
}
MAX_VERDICTS = 6


def draw_leaderboard(standings: Standings) -> None:
    """Draw ratings with intervals as figure and table."""
    table = standings.table
    if table is None:
        return
    leader = table.ratings[0]
    st.plotly_chart(
        interval_chart(rating_marks(table.ratings), title="Rating, 95 % interval", reference=1000.0),
        key="ratings_chart",
        config=STATIC,
        alt=f"{leader.contestant} leads with {leader.rating:.0f}",
    )
    draw_table(
        [
            {
                "Rank": f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}",
                "Contestant": row.contestant,
                "Rating": round(row.rating),
                "Interval": f"{row.low:.0f} to {row.high:.0f}",
                "Votes": row.votes,
                "Won": row.wins,
                "Lost": row.losses,
                "Tied": row.ties,
                "Both bad": f"{row.both_bad_rate:.0%}",
            }
            for row in table.ratings
        ],
        key="ratings_table",
        alt="Ratings",
    )
    st.caption("Rank: range consistent with the votes, simultaneous over all pairs.")
    if standings.unrated:
        st.caption(f"No votes yet: {plain(', '.join(standings.unrated))}")
    for note in table.notes:
        st.caption(f":material/info: {plain(note)}")
    st.caption(plain(f"Method: {table.method}."))


def draw_verdicts(standings: Standings) -> None:
    """Draw the verdict on each pair, neighbours on the leaderboard first."""
    for verdict in standings.verdicts[:MAX_VERDICTS]:
        _draw_verdict(verdict)
    rest = standings.verdicts[MAX_VERDICTS:]
    if rest:
        with st.expander(f"{plural(len(rest), 'more pair')}", key="more_verdicts"):
            for verdict in rest:
                _draw_verdict(verdict)


def _draw_verdict(verdict: PairVerdict) -> None:
    word, color, icon = BADGES[verdict.outcome]
    with st.container(border=True):
        st.markdown(f":{color}-badge[:material/{icon}: {word}] {plain(verdict.sentence)}")


def draw_bias(standings: Standings) -> None:
    """Draw checks for bias: position, both-bad share, agreement, pace."""
    if standings.table is None:
        return
    grid = st.grid(4, min_column_width=140)
    bias = standings.table.position_bias
    if bias is None or bias.low is None or bias.high is None:
        grid.metric("Position bias (side A)", "–", help="Not enough votes.")
    else:
        grid.metric(
            "Position bias (side A)",
            f"{bias.value:+.0f}",
            help=f"Rating points, 95 % interval {bias.low:+.0f} to {bias.high:+.0f}. Sides are shuffled.",
        )
    grid.metric("Both bad", f"{standings.both_bad_share or 0:.0%}", help="Share of votes for “both bad”.")
    agreement = standings.agreement.percent_agreement if standings.agreement else None
    alpha = standings.agreement.alpha if standings.agreement else None
    grid.metric(
        "Rater agreement",
        f"{agreement.value:.0%}" if agreement else "–",
        help=f"On {plural(standings.agreement.num_items, 'shared battle')}; Krippendorff's alpha {alpha.value:.2f}."
        if agreement and alpha and standings.agreement
        else "Needs battles judged by two raters.",
    )
    grid.metric("Median time per vote", f"{standings.median_s:.0f} s" if standings.median_s is not None else "–")


def draw_matrix(standings: Standings) -> None:
    """Draw the win matrix."""
    if standings.table is None:
        return
    st.plotly_chart(
        win_chart(standings.table.wins), key="win_chart", config=STATIC, alt="Share of votes each contestant earned against each other"
    )
    st.caption("Win share of the row against the column; ties and both bad count half.")


def draw_raters(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the raters and the form for rater links."""
    rows = list_raters(ctx, campaign.id)
    if rows:
        draw_table([_rater_line(row) for row in rows], key="raters", alt="Raters")
    if not person.may_build or not campaign.is_open or campaign.is_standing:
        return
    with st.form("rater_link", border=False, clear_on_submit=True):
        left, middle, right = st.columns([3, 1, 1.4], vertical_alignment="bottom")
        name = left.text_input("Invite a rater", key="rater_name", placeholder="Name or pseudonym", max_chars=80)
        days = middle.number_input("Days", 1, 365, 14, key="rater_days")
        if right.form_submit_button("Create link", icon=":material/link:", width="stretch"):
            with errors_shown():
                st.session_state["fresh_link"] = create_rater_link(ctx, campaign.id, name=name, days=int(days), person=person).url
    if "fresh_link" in st.session_state:
        st.success("Copy it now: it is shown only once. It opens only this ballot.", icon=":material/link:")
        st.code(st.session_state.pop("fresh_link"), language=None, wrap_lines=True)
    valid = [row for row in rows if row.is_link and row.rater.expires_at and row.rater.expires_at > ctx.now()]
    if valid:
        names = {row.rater.id: row.rater.name for row in valid}
        with st.popover("Revoke a link", icon=":material/link_off:", key="end_link_menu"):
            chosen = st.selectbox("Whose", list(names), format_func=names.__getitem__, key="end_link_whose")
            if st.button("End it", key="end_link", help="Votes are kept."):
                with errors_shown():
                    revoke_rater_link(ctx, chosen, person=person)
                    st.rerun()


def _rater_line(row: RaterRow) -> dict[str, object]:
    return {
        "Rater": row.rater.name,
        "Access": "link" if row.is_link else "account" if row.rater.id != LOCAL_RATER else "this machine",
        "Votes": row.num_votes,
        "Median seconds per vote": f"{row.median_s:.1f}" if row.median_s is not None else "–",
        "Chose side A": f"{row.left_share:.0%}" if row.left_share is not None else "–",
        "Link expires": day(row.rater.expires_at) if row.rater.expires_at else None,
    }
