"""Board of a campaign: ratings by chosen options, differences, verdicts and checks; and the page of its ratings: votes
needed, sensitivity, judge agreement, snapshots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import streamlit as st

from backend.domain.battles.bradley_terry import METHOD_NAMES, Method
from backend.domain.battles.clusters import ClusterBy
from backend.domain.battles.rating_table import Control, PairDifference, RatingOptions, RatingTable
from backend.domain.statistics.estimates import Estimate
from backend.domain.wording import percent, plural, shorten
from backend.services.battles.frozen_boards import freeze_board, list_frozen_boards
from backend.services.battles.standings import Standings, board_fragility, standings
from backend.services.battles.views import CampaignView
from backend.services.context import Context, Person
from backend.services.evaluation.judges.campaigns import JudgeColumn, JudgesView, judges_of
from pages.components import routes
from pages.components.battles.charts import interval_chart, rating_marks
from pages.components.battles.raters import draw_flagged
from pages.components.battles.standings import draw_bias, draw_verdicts, draw_votes_needed, draw_win_matrix
from pages.components.choices import choose_from
from pages.components.frame import draw_plot, errors_shown, plain
from pages.components.links import row_link
from pages.components.numbers import form_button
from pages.components.tables import draw_table
from pages.components.words import when

CLUSTERS: dict[ClusterBy, str] = {
    "two_way": "Prompt and rater",
    "prompt": "Prompt",
    "rater": "Rater",
    "none": "Independent votes (too narrow)",
}
CONTROLS: dict[Control, str] = {"length": "Length", "style": "Headers, lists, bold"}
MAX_WITHOUT = 10
PARTS = ("Votes needed", "Sensitivity", "Judge agreement", "Snapshots")
TIE_PARAMETERS: dict[Method, str] = {
    "bradley_terry": "share of ties {:.2f}",
    "davidson": "ν = {:.2f}",
    "rao_kupper": "η = {:.2f}",
}


def draw_board(ctx: Context, person: Person, campaign: CampaignView, default: Standings) -> None:
    """Draw the board; `default` is that of the default options, which are drawn until others are chosen."""
    options, with_excluded = _draw_options(default)
    changed = options != RatingOptions() or with_excluded
    board = standings(ctx, campaign.id, options=options, with_excluded=with_excluded) if changed else default
    if board.table is None:
        st.info("No votes match these options.")
        return
    _draw_exclusions(default, with_excluded=with_excluded)
    _draw_ratings(board, board.table)
    st.subheader("Verdicts", anchor=False)
    draw_verdicts(board, is_closed=not campaign.is_open)
    _draw_ways_on(ctx, person, campaign, board)
    draw_bias(board)
    with st.expander("Difference between neighbours", icon=":material/compare_arrows:", key="differences"):
        _draw_differences(board.table)
    with st.expander("Win matrix", icon=":material/grid_on:", key="matrix", on_change="rerun") as matrix:
        if matrix.open:
            draw_win_matrix(board)
    with st.expander("Does the order depend on the method?", icon=":material/tune:", key="methods"):
        _draw_methods(board.table)


def _draw_ways_on(ctx: Context, person: Person, campaign: CampaignView, board: Standings) -> None:
    """Draw how many raters have quality flags, and the ways to them, to the leader's checkpoint and to its promotion,
    whose page says what speaks against it.
    """
    leader = board.table.ratings[0].contestant if board.table is not None else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        draw_flagged(ctx, campaign, key="board_flags")
        if leader in board.checkpoints:
            query = {"checkpoint": board.checkpoints[leader]}
            row_link(leader, page=routes.CHECKPOINTS, query=query, key="board_leader")
        if person.may_build and leader in board.checkpoints:
            is_better = any((one.first, one.outcome) == (leader, "better") for one in board.verdicts)
            words = f"Promote {leader}" if is_better else f"Promotion of {leader}"
            query = {"promote": board.checkpoints[leader], "campaign": campaign.id}
            row_link(words, page=routes.CHECKPOINTS, query=query, icon="arrow_upward", key="board_promote")


def draw_rating(ctx: Context, person: Person, campaign: CampaignView, default: Standings) -> None:
    """Draw what a lead asks of ratings: votes needed, sensitivity, judge agreement, snapshots. The open part alone."""
    if default.table is None:
        st.info("Ratings need votes of raters who are not excluded.")
        return
    for name, part in zip(PARTS, st.tabs(PARTS, key="rating", bind="query-params"), strict=True):
        if not part.open:
            continue
        with part:
            if name == "Votes needed":
                draw_votes_needed(default)
            elif name == "Sensitivity":
                _draw_fragility(ctx, campaign)
            elif name == "Judge agreement":
                draw_judges(ctx, campaign.id, default.table)
            else:
                options, _ = _draw_options(default)
                _draw_frozen(ctx, person, campaign, options)


def _draw_options(default: Standings) -> tuple[RatingOptions, bool]:
    """Draw the options as a popover; return them, and whether excluded raters are counted."""
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.popover("Rating options", icon=":material/tune:", key="rating_options"):
            method = st.selectbox(
                "Method",
                list(get_args(Method)),
                format_func=METHOD_NAMES.__getitem__,
                key="rating_method",
                persist_state="session",
                help=RatingOptions.model_fields["method"].description,
            )
            cluster_by = st.selectbox(
                "Intervals clustered by",
                list(CLUSTERS),
                format_func=CLUSTERS.__getitem__,
                key="rating_clusters",
                persist_state="session",
            )
            control = st.pills(
                "Hold equal",
                list(CONTROLS),
                format_func=CONTROLS.__getitem__,
                selection_mode="multi",
                key="rating_control",
                persist_state="session",
            )
            category = st.selectbox(
                "Category",
                default.categories,
                index=None,
                placeholder="All",
                key="rating_category",
                persist_state="session",
            )
            reweight = st.toggle(
                "Weight pairs equally",
                key="rating_reweight",
                persist_state="session",
                help=RatingOptions.model_fields["reweight"].description,
            )
        with_excluded = bool(default.num_excluded_votes) and st.toggle(
            "Count excluded raters", key="rating_excluded", persist_state="session"
        )
    return (
        RatingOptions.of(
            method=method, cluster_by=cluster_by, control=tuple(control), category=category, reweight=reweight
        ),
        with_excluded,
    )


def _draw_exclusions(default: Standings, *, with_excluded: bool) -> None:
    if not default.num_excluded_votes:
        return
    votes = plural(default.num_excluded_votes, "vote")
    names = plain(", ".join(default.excluded))
    st.caption(f":material/person_off: {votes} of {names} {'are counted here' if with_excluded else 'are left out'}.")


def _draw_ratings(board: Standings, table: RatingTable) -> None:
    leader = table.ratings[0]
    draw_plot(
        interval_chart(rating_marks(table.ratings), title=f"Rating, {percent(table.level)} interval", reference=1000.0),
        key="ratings_chart",
        alt=f"{leader.contestant} leads with {leader.rating:.0f}",
    )
    draw_table([_line(table, row.contestant) for row in table.ratings], key="ratings_table", alt="Ratings")
    st.caption("Rank: range consistent with the votes, simultaneous over all pairs.")
    if any(row.identical for row in table.ratings):
        st.caption(
            "Identical answers are not shown to raters: they count as ties in ratings and ranks, never as votes."
        )
    if board.unrated:
        st.caption(f"No votes yet: {plain(', '.join(board.unrated))}")
    for effect in table.controls:
        low, high = effect.effect.low or 0.0, effect.effect.high or 0.0
        st.caption(
            f":material/straighten: {plain(effect.feature.capitalize())}: {effect.effect.value:+.0f} rating points per"
            f" standard deviation [{low:+.0f}, {high:+.0f}], held equal here."
        )
    for note in table.notes:
        st.caption(f":material/info: {plain(note)}")
    st.caption(plain(f"Method: {table.method}."))


def _line(table: RatingTable, contestant: str) -> dict[str, object]:
    row = table.rating(contestant)
    values: dict[str, object] = {
        "Rank": f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}",
        "Contestant": contestant,
        "Rating": f"{row.rating:.0f}",
        "Interval": f"{row.low:.0f} to {row.high:.0f}",
    }
    if row.uncontrolled is not None:
        values["Without control"] = f"{row.uncontrolled:.0f}"
    values |= {
        "Votes": row.num_cast,
        "Won": row.wins,
        "Lost": row.losses,
        "Tied": row.ties - row.identical,
        "Both bad": "–" if row.both_bad_rate is None else percent(row.both_bad_rate),
    }
    if any(other.identical for other in table.ratings):
        values["Identical answers"] = row.identical
    return values


def _draw_differences(table: RatingTable) -> None:
    if len(table.contestants) < 2:
        st.caption("Only one contestant has votes.")
        return
    with st.container(horizontal=True):
        first = st.selectbox("First", table.contestants, key="difference_first", width=300)
        second = st.selectbox(
            "Second", [name for name in table.contestants if name != first], key="difference_second", width=300
        )
    chosen = table.pair(first, second)
    pairs = [chosen, *(pair for pair in table.neighbours() if {pair.first, pair.second} != {first, second})]
    draw_table(
        [_difference_line(table, pair) for pair in pairs],
        key="differences_table",
        alt="Differences between contestants",
    )
    st.caption(
        f"{percent(table.level)} intervals of the difference, fitted over all votes. They can exclude 0 where two"
        " rating intervals overlap."
    )


def _difference_line(table: RatingTable, pair: PairDifference) -> dict[str, object]:
    return {
        "Pair": f"{pair.first} against {pair.second}",
        "Difference": f"{table.shown_gap(pair.first, pair.second):+d}",
        "Interval": f"{pair.low:+.0f} to {pair.high:+.0f}",
        "Expected share": f"{percent(pair.share)} [{percent(pair.share_low)}, {percent(pair.share_high)}]",
        "Direct votes": pair.num_cast,
    }


def _draw_methods(table: RatingTable) -> None:
    rows = [
        {
            "Method": METHOD_NAMES[fit.method],
            "Log-likelihood": f"{fit.log_likelihood:.1f}",
            "Ties": TIE_PARAMETERS[fit.method].format(fit.tie_parameter),
            "Same order": "yes" if not fit.rank_changes else f"no (Kendall τ {fit.kendall_tau:.2f})",
            "Ranks that differ": (
                ", ".join(f"{change.contestant} {change.rank} → {change.other_rank}" for change in fit.rank_changes)
                or "–"
            ),
        }
        for fit in table.fits
    ]
    draw_table(rows, key="methods_table", alt="Methods compared")
    st.caption("A higher log-likelihood fits the wins and ties better. Scales of different methods can't be compared.")


def _draw_fragility(ctx: Context, campaign: CampaignView) -> None:
    st.caption("How few votes or raters hold the first place: what would have to be removed until another leads.")
    board = board_fragility(ctx, campaign.id)
    if board is None:
        st.caption("Needs votes.")
        return
    leaders = board.fragility.leaders
    if len(leaders) > 1:
        st.markdown(plain(f"{' and '.join(leaders)} share first place: one more vote decides."))
    removals = [(board.fragility.votes, "vote"), (board.fragility.raters, "rater")] if len(leaders) == 1 else []
    for removal, noun in removals:
        if removal is None:
            which = "No removal of" if noun == "vote" else "No removal of raters with"
            st.markdown(plain(f"{which} up to half of the votes takes first place from {leaders[0]}."))
            continue
        names = (
            ", ".join(board.raters.get(str(member), "") for member in removal.members[:5]) if noun == "rater" else ""
        )
        who = plural(len(removal.members), noun) + (f" ({names})" if names else "")
        st.markdown(
            plain(
                f"Without {who}, {percent(removal.share, digits=1)} of all votes, "
                f"{removal.new_first} would lead in place of {removal.first}."
            )
        )
    rows = [
        {
            "Without": board.raters.get(row.rater, row.rater),
            "Votes": row.num_votes,
            "First": " and ".join(row.first),
            "Largest change": f"{row.largest_change:+.0f} ({row.contestant})",
            "Ranks that change": row.ranks_changed,
        }
        for row in board.without[:MAX_WITHOUT]
    ]
    draw_table(rows, key="without_table", alt="The board without each rater")


def _draw_frozen(ctx: Context, person: Person, campaign: CampaignView, options: RatingOptions) -> None:
    boards = list_frozen_boards(ctx, campaign.id)
    if not boards and not person.may_build:
        st.caption("No snapshots yet.")
        return
    if person.may_build:
        with st.popover("Take a snapshot", icon=":material/ac_unit:", key="freeze_menu"):
            name = st.text_input("Name", key="freeze_name", max_chars=120, placeholder="Before release 2")
            if form_button("Take", {"enter a name": not name.strip()}, key="freeze_go"):
                with errors_shown():
                    frozen = freeze_board(ctx, campaign.id, name=name, options=options, person=person)
                    st.switch_page(routes.BATTLES, query_params={"board": frozen.id})
    st.caption(
        "A snapshot keeps votes, options and ratings of a moment under an address, with a hash that proves it"
        " unchanged."
    )
    for board in boards:
        with st.container(horizontal=True, vertical_alignment="center"):
            row_link(
                board.name, page=routes.BATTLES, query={"board": board.id}, icon="ac_unit", key=f"frozen_{board.id}"
            )
            st.caption(f"SHA-256 {board.digest[:12]}… · {when(board.created_at, now=ctx.now())}", width="content")


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
        _draw_judge_ratings(_choose_judgements(ctx, judges), table)
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


def _draw_judge_ratings(columns: list[JudgeColumn], table: RatingTable) -> None:
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
