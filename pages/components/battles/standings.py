"""Standings of a campaign: verdicts, win matrix, bias checks."""

from __future__ import annotations

from math import log

import streamlit as st

from backend.domain.battles.inference.plans import PlanOption
from backend.domain.battles.verdicts import PairVerdict
from backend.domain.wording import format_duration, percent, plural
from backend.services.battles.standings import Standings
from pages.components.battles.charts import win_chart
from pages.components.charts.style import STATIC
from pages.components.frame import plain
from pages.components.tables import draw_table

BADGES = {
    "better": ("decided", "green", "check_circle"),
    "worse": ("decided", "green", "check_circle"),
    "undecided": ("open", "gray", "pending"),
}
MAX_VERDICTS = 6


def draw_way_to_verdict(standings: Standings) -> None:
    """Draw how near the first two contestants are to a verdict: evidence on a log scale, and the votes that are still needed."""
    verdict = next((verdict for verdict in standings.verdicts if verdict.outcome == "undecided"), None)
    if not standings.verdicts or standings.table is None:
        return
    decided = sum(verdict.outcome != "undecided" for verdict in standings.verdicts)
    if verdict is None:
        every = "The pair is" if decided == 1 else f"All {decided} pairs are"
        st.progress(1.0, text=f"{every} decided.")
        return
    leading = standings.verdicts[0]
    share = 1.0 if leading.outcome != "undecided" else min(1.0, max(0.0, log(max(leading.e_value, 1.0)) / log(leading.threshold)))
    needed = f", about {plural(leading.votes_needed, 'more vote')}" if leading.votes_needed else ""
    text = f"{plain(leading.first)} against {plain(leading.second)}: evidence {leading.e_value:.3g} of {leading.threshold:,.0f}{needed}"
    st.progress(share, text=text + (f" · {decided} of {plural(len(standings.verdicts), 'pair')} decided" if decided else ""))


def draw_verdicts(standings: Standings) -> None:
    """Draw the verdict on each pair, neighbours on the leaderboard first."""
    for verdict in standings.verdicts[:MAX_VERDICTS]:
        _draw_verdict(verdict)
    if standings.verdicts:
        st.caption(
            "Verdicts hold for prompts like these, judged by these raters. The difference between neighbours, below, has intervals "
            "clustered by rater too: it speaks for raters like them."
        )
    undecided = next((verdict for verdict in standings.verdicts if verdict.outcome == "undecided"), None)
    if undecided is not None:
        _draw_plan(undecided, standings.plan)
    rest = standings.verdicts[MAX_VERDICTS:]
    if rest:
        with st.expander(plural(len(rest), "more pair"), key="more_verdicts", on_change="rerun") as more:
            if more.open:
                draw_table([_verdict_line(verdict) for verdict in rest], key="more_verdicts_table", alt="Verdicts on the other pairs")
                if len(standings.verdicts) < standings.verdicts[0].num_pairs:
                    st.caption(
                        f"The {len(standings.verdicts)} nearest of {plural(standings.verdicts[0].num_pairs, 'pair')} on the board; "
                        "`roundhouse rating verdict` judges any other."
                    )


def _draw_plan(verdict: PairVerdict, plan: tuple[PlanOption, ...]) -> None:
    """Draw the choices of gap and design that would settle a pair."""
    with st.expander(f"Ways to settle {plain(verdict.first)} against {plain(verdict.second)}", key="verdict_plan"):
        draw_table(
            [
                {
                    "Gap, rating points": f"{option.gap_elo:g}",
                    "Design": option.label,
                    "Votes": option.votes,
                    "Prompts": option.prompts,
                    "Rating time": format_duration(60 * option.minutes),
                    "Looks": "at any time" if option.any_time else "one, at the end",
                }
                for option in plan
            ],
            key="verdict_plan_table",
            alt="Votes by gap and design",
        )
        st.caption("Totals for a campaign that starts now; a true gap of this size is found with a chance of 80 %.")


def _verdict_line(verdict: PairVerdict) -> dict[str, object]:
    share = verdict.share
    return {
        "Pair": f"{verdict.first} against {verdict.second}",
        "Verdict": verdict.outcome,
        "Share": f"{percent(share.value)} [{percent(share.low or 0)}, {percent(1.0 if share.high is None else share.high)}]",
        "E-value": f"{verdict.e_value:.3g} of {verdict.threshold:.3g}",
        "Votes": verdict.votes,
        "Votes needed": verdict.votes_needed or None,
    }


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
    grid.metric("Both bad", percent(standings.both_bad_share or 0), help="Share of votes for “both bad”.")
    agreement = standings.agreement.percent_agreement if standings.agreement else None
    alpha = standings.agreement.alpha if standings.agreement else None
    grid.metric(
        "Rater agreement",
        percent(agreement.value) if agreement else "–",
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
