"""Standings of a campaign: verdicts, win matrix, bias checks."""

from __future__ import annotations

import streamlit as st

from backend.domain.battles.headlines import board_headline, pair_headline
from backend.domain.battles.inference.plans import PLANNED_SECONDS
from backend.domain.battles.verdicts import PairVerdict
from backend.domain.wording import about, format_duration, format_evidence, percent, plural
from backend.services.battles.standings import Standings
from pages.components.battles.charts import win_chart
from pages.components.frame import draw_metric, draw_plot, plain
from pages.components.tables import draw_table

TONES = {
    "decided": ("decided", "green", "check_circle"),
    "leaning": ("undecided", "blue", "trending_up"),
    "open": ("undecided", "gray", "pending"),
}
MAX_VERDICTS = 6
MANY_VOTES = 100_000
"""Votes whose rating time no one asks for."""


def draw_headline(standings: Standings, *, is_closed: bool) -> None:
    """Draw who leads, whether it is enough, and what is missing, for a reader without statistics."""
    headline = board_headline(standings.verdicts, standings.table, is_closed=is_closed)
    if headline is None:
        return
    with st.container(border=True):
        _, color, icon = TONES[headline.tone]
        st.markdown(f"#### :{color}[:material/{icon}:] {plain(headline.sentence)}")
        st.caption(plain(" ".join(headline.notes)))


def draw_verdicts(standings: Standings, *, is_closed: bool) -> None:
    """Draw the verdict on each pair: decided ones first, then neighbours on the leaderboard."""
    verdicts = sorted(standings.verdicts, key=lambda verdict: verdict.outcome == "undecided")
    for verdict in verdicts[:MAX_VERDICTS]:
        _draw_verdict(verdict, standings, is_closed=is_closed)
    rest = verdicts[MAX_VERDICTS:]
    if rest:
        with st.expander(plural(len(rest), "more pair"), key="more_verdicts", on_change="rerun") as more:
            if more.open:
                draw_table(
                    [_verdict_line(verdict) for verdict in rest],
                    key="more_verdicts_table",
                    alt="Verdicts on the other pairs",
                )
                if len(standings.verdicts) < standings.verdicts[0].num_pairs:
                    st.caption(
                        f"The {len(standings.verdicts)} nearest of {plural(standings.verdicts[0].num_pairs, 'pair')} on"
                        " the board; `roundhouse rating verdict` judges any other."
                    )


def format_seconds(pace: float | None) -> str:
    """Return a median as Raters writes it; None is one of no votes but those of raters whose pace is flagged."""
    return "none counted" if pace is None else f"{pace:.1f} s"


def draw_votes_needed(standings: Standings) -> None:
    """Draw the votes that each pair still needs, and the designs that would settle the first undecided one."""
    verdicts = sorted(standings.verdicts, key=lambda verdict: verdict.outcome != "undecided")
    draw_table([_verdict_line(verdict) for verdict in verdicts], key="votes_needed", alt="Votes that each pair needs")
    st.caption("Evidence over prompts and over raters must both reach what is needed, at any time.")
    undecided = verdicts[0] if verdicts and verdicts[0].outcome == "undecided" else None
    if undecided is None:
        st.caption("Every pair here is decided.")
        return
    pace = standings.median_s
    st.subheader(plain(f"To settle {undecided.first} against {undecided.second}"), anchor=False)
    draw_table(
        [
            {
                "Gap, rating points": f"{option.gap_elo:g}",
                "Design": option.label,
                "Votes": about(option.votes),
                "Prompts": about(option.prompts),
                "Raters": about(option.raters) if option.raters else None,
                "Rating time": format_duration(60 * option.minutes) if option.votes <= MANY_VOTES else "–",
                "Looks": "at any time" if option.any_time else "one, at the end",
            }
            for option in standings.plan
        ],
        key="verdict_plan_table",
        alt="Votes by gap and design",
    )
    st.caption(
        "Totals for a campaign that starts now; a true gap of this size is found with a chance of 80 %. A verdict at"
        f" any time needs both the prompts and the raters, each with {undecided.votes_per_rater:.0f} votes, as so far;"
        " votes beyond the design's are further ones on its prompts. A fixed sample says nothing about other raters."
        f" Rating time: {PLANNED_SECONDS if pace is None else pace:.2g} s per vote, "
        + ("as planned, since no vote is timed but those of flagged raters." if pace is None else "the median so far.")
    )


def _verdict_line(verdict: PairVerdict) -> dict[str, object]:
    share, first = verdict.cast_share, verdict.needed_first
    return {
        "Pair": f"{verdict.first} against {verdict.second}",
        "Verdict": verdict.outcome,
        "Share": (
            f"{percent(share.value)} [{percent(share.low or 0)}, {percent(1.0 if share.high is None else share.high)}]"
        ),
        "Evidence over prompts": format_evidence(verdict.e_value),
        "Over raters": format_evidence(verdict.rater_e_value),
        "Needed": f"{verdict.threshold:,.0f}",
        "Votes": verdict.num_cast,
        "More votes": about(first.votes) if first.votes else None,
        "For a gap of": f"{first.gap_elo:.0f}" if first.votes else None,
    }


def _draw_verdict(verdict: PairVerdict, standings: Standings, *, is_closed: bool) -> None:
    if standings.table is None:
        return
    headline = pair_headline(verdict, standings.table, is_closed=is_closed)
    word, color, icon = TONES[headline.tone]
    with st.container(border=True):
        badge = f":{color}-badge[:material/{icon}: {word}]"
        if len(standings.verdicts) == 1:  # the page's headline is on this pair
            st.markdown(f"{badge} {plain(verdict.sentence)}")
            return
        st.markdown(f"{badge} {plain(headline.sentence)}")
        st.caption(plain(" ".join((verdict.sentence, *headline.notes))))


def draw_bias(standings: Standings) -> None:
    """Draw checks for bias: position, both-bad share, agreement, pace."""
    if standings.table is None:
        return
    grid = st.grid(4, min_column_width=140)
    bias = standings.table.position_bias
    if bias is None or bias.low is None or bias.high is None:
        draw_metric(grid, "Position bias, points", "–", help="Not enough votes.")
    else:
        draw_metric(
            grid,
            "Position bias, points",
            f"{bias.low:+.0f} to {bias.high:+.0f}",
            help=(
                f"Rating points that the left side gains: 95 % interval, estimate {bias.value:+.0f}."
                f"{' It may be none.' if bias.low <= 0 <= bias.high else ''} Sides are shuffled."
            ),
        )
    draw_metric(grid, "Both bad", percent(standings.both_bad_share or 0), help="Share of votes for “both bad”.")
    agreement = standings.agreement.percent_agreement if standings.agreement else None
    alpha = standings.agreement.alpha if standings.agreement else None
    draw_metric(
        grid,
        "Rater agreement",
        percent(agreement.value) if agreement else "–",
        help=(
            f"On {plural(standings.agreement.num_items, 'shared battle')}; both bad counts as a tie. "
            f"Krippendorff's alpha {alpha.value:.2f}."
            if agreement and alpha and standings.agreement
            else "Needs battles judged by two raters."
        ),
    )
    draw_metric(
        grid,
        "Median time per vote",
        format_seconds(standings.median_s),
        help="Without the votes of raters whose pace is flagged: Raters has their times.",
        note=f"of {plural(timed, 'timed vote')}" if 0 < (timed := standings.num_timed) < standings.num_votes else None,
    )


def draw_win_matrix(standings: Standings) -> None:
    """Draw the win matrix."""
    if standings.table is None:
        return
    draw_plot(
        win_chart(standings.table.wins), key="win_chart", alt="Share of votes each contestant earned against each other"
    )
    st.caption("Win share of the row against the column; ties and both bad count half.")
