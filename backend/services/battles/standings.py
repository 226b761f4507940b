"""Standings of a campaign: its votes as records for the statistics, leaderboard, verdict on each pair, rater agreement,
and the votes as CSV.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, CampaignPrompt, Completion, Contestant, Rater, Vote
from backend.domain.battles.agreement import RaterAgreement, vote_agreement
from backend.domain.battles.campaign import prompt_text
from backend.domain.battles.inference.plans import PlanOption, plan_options
from backend.domain.battles.influence import Fragility, WithoutRater, first_place_fragility, without_each_rater
from backend.domain.battles.rating_table import RatingOptions, RatingTable
from backend.domain.battles.ratings import of_category, rate
from backend.domain.battles.verdicts import NO_VOTES, PairVerdict, judge_pair, votes_by_pair
from backend.domain.battles.votes import (
    LABELS,
    AnswerFeatures,
    FloatArray,
    Label,
    VoteColumns,
    VoteRecord,
    measure_answer,
    relative_difference,
)
from backend.domain.csv_text import safe_cell
from backend.domain.statistics.agreement import Resampling
from backend.services.battles.quality import excluded_raters, vote_seconds
from backend.services.battles.raters import read_raters
from backend.services.battles.views import VOTES, ValidVote, contestant_names, find_campaign, valid_votes
from backend.services.battles.vote_log import Revision, read_vote_log, votes_revision
from backend.services.context import Context


def read_vote_records(session: Session, campaign_id: str, *, with_forms: bool = False) -> tuple[VoteRecord, ...]:
    """Return a record of each vote of a campaign's board, oldest first, without those of excluded raters. `with_forms`
    measures the answers, which reads their texts.

    Equal prompts have one name, so that a prompt asked again is the same prompt.
    """
    excluded, names = excluded_raters(session, campaign_id), contestant_names(session, campaign_id)
    named = select(CampaignPrompt.id, CampaignPrompt.category).where(CampaignPrompt.campaign_id == campaign_id)
    categories = dict(session.execute(named).all())
    forms = _forms(session, campaign_id) if with_forms else {}
    votes = valid_votes(session, campaign_id)
    return tuple(_record(vote, names, categories, forms) for vote in votes if vote.rater_id not in excluded)


@dataclass(frozen=True)
class BoardColumns:
    """The votes of a board as arrays, with each vote's seconds (NaN where unknown, or where the rater is flagged for
    pace). Votes of `excluded` raters are not among them.
    """

    votes: VoteColumns
    seconds: FloatArray
    excluded: frozenset[str]
    num_excluded_votes: int
    categories: tuple[str, ...]


def read_board_columns(
    session: Session,
    campaign_id: str,
    *,
    with_excluded: bool = False,
    with_forms: bool = False,
    with_seconds: bool = False,
    revision: Revision | None = None,
) -> BoardColumns:
    """Return the votes of a campaign's board as arrays; quick for one of 100,000 votes."""
    log = read_vote_log(session, campaign_id, revision=revision)
    excluded = excluded_raters(session, campaign_id)
    out = np.array([rater in excluded for rater in log.columns.raters], dtype=bool)[log.columns.rater]
    on_board = log.of_purpose(VOTES)
    counted = on_board if with_excluded else on_board & ~out
    columns = log.columns.select(counted)
    if with_forms:
        measured = _forms(session, campaign_id)
        forms = np.array([measured[answer] for answer in log.answers], dtype=np.float64)
        sides = [forms[side[counted]] for side in (log.answer_a, log.answer_b)]
        columns = replace(columns, forms=relative_difference(sides[0], sides[1]))
    return BoardColumns(
        votes=columns,
        seconds=vote_seconds(session, log)[counted] if with_seconds else np.full(len(columns), np.nan),
        excluded=excluded,
        num_excluded_votes=int((on_board & out & log.columns.is_cast).sum()),
        categories=_categories(session, campaign_id),
    )


def _categories(session: Session, campaign_id: str) -> tuple[str, ...]:
    named = select(CampaignPrompt.category).where(CampaignPrompt.campaign_id == campaign_id)
    return tuple(sorted(filter(None, session.scalars(named.distinct()))))


def _record(
    vote: ValidVote, names: dict[str, str], categories: dict[str, str], forms: dict[str, AnswerFeatures]
) -> VoteRecord:
    return VoteRecord(
        prompt=vote.prompt_key,
        rater=vote.rater_id,
        a=names[vote.a],
        b=names[vote.b],
        winner=vote.label,
        turn=vote.turn,
        identical=vote.identical,
        category=categories[vote.prompt_id],
        probability=vote.sampling_probability,
        form_a=forms.get(vote.completion_a_id),
        form_b=forms.get(vote.completion_b_id),
    )


def _forms(session: Session, campaign_id: str) -> dict[str, AnswerFeatures]:
    rows = session.execute(
        select(Completion.id, Completion.text)
        .join(Contestant, Contestant.id == Completion.contestant_id)
        .where(Contestant.campaign_id == campaign_id)
    )
    return {completion_id: measure_answer(text) for completion_id, text in rows}


ALPHA = 0.05
MAX_REMEMBERED = 32
MAX_VERDICTS = 200
"""Pairs that are judged, nearest on the leaderboard first: all of 20 contestants. Imported votes may have more."""

CSV_COLUMNS = (
    "prompt",
    "rater",
    "a",
    "b",
    "winner",
    "turn",
    "category",
    "probability",
    "seconds",
    "identical",
    "excluded",
    "voted_at",
    "note",
    "reasons",
    "flag",
    "prompt_text",
)


@dataclass(frozen=True)
class Standings:
    """`table` is None without votes. `checkpoints` maps a contestant's name to its checkpoint's id; `unrated` have no
    votes yet.

    `verdicts` list neighbours on the leaderboard first, then the others, up to MAX_VERDICTS; each pair once, at a
    family-wise error rate of 5 % over all pairs. `excluded` are the names of raters left out of the board of the
    campaign, `categories` those of its prompts. `num_votes` and `num_excluded_votes` were cast by people; ties of
    identical answers, of which the table knows, were not. `median_s` is of `num_timed` votes: those of raters whose
    pace is not flagged.
    """

    table: RatingTable | None
    verdicts: tuple[PairVerdict, ...]
    plan: tuple[PlanOption, ...]
    agreement: RaterAgreement | None
    checkpoints: dict[str, str]
    unrated: tuple[str, ...]
    num_votes: int
    median_s: float | None
    num_timed: int
    both_bad_share: float | None
    excluded: tuple[str, ...] = ()
    num_excluded_votes: int = 0
    categories: tuple[str, ...] = ()


_remembered: OrderedDict[tuple[object, ...], tuple[Revision, Standings]] = OrderedDict()
"""The newest board of each campaign and options."""
_remembering = Lock()


def standings(
    ctx: Context, campaign_id: str, *, options: RatingOptions | None = None, with_excluded: bool = False
) -> Standings:
    """Rate the contestants of a campaign by its valid votes. Votes of excluded raters count only `with_excluded`.

    The same votes and options are computed once a process. Raises NotFound for a campaign, InvalidInput for an unknown
    category.
    """
    options = options or RatingOptions()
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        gap = campaign.config.smallest_gap
        revision = votes_revision(session, campaign_id)
        key = (ctx.db.url, campaign_id, options, with_excluded, gap)
        with _remembering:
            newest = _remembered.get(key)
        if newest is not None and newest[0] == revision:
            return newest[1]
        votes = read_board_columns(
            session,
            campaign_id,
            with_excluded=with_excluded,
            with_forms=bool(options.control),
            with_seconds=True,
            revision=revision,
        )
        checkpoints = _checkpoints(session, campaign_id)
        raters = dict(session.execute(select(Rater.id, Rater.name).where(Rater.id.in_(votes.excluded))).all())
    board = _standings(votes, checkpoints, sorted(raters.values()), options=options, gap=gap)
    with _remembering:
        _remembered[key] = revision, board
        _remembered.move_to_end(key)
        while len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return board


def _standings(
    board: BoardColumns, checkpoints: dict[str, str | None], excluded: list[str], *, options: RatingOptions, gap: float
) -> Standings:
    votes, times = board.votes, board.seconds[~np.isnan(board.seconds)]
    if options.category is not None and len(votes):
        votes = of_category(votes, options.category)
    pace = float(np.median(times)) if len(times) else None
    table = rate(votes, options) if len(votes) else None
    rated = table.contestants if table else ()
    order = [*rated, *sorted(set(checkpoints) - set(rated))]
    verdicts = _verdicts(votes, order, gap=gap, pace=pace) if len(votes) else ()
    return Standings(
        table=table,
        verdicts=verdicts,
        plan=_plan(verdicts, pace=pace),
        agreement=vote_agreement(votes, resampling=Resampling(200)) if len(votes) else None,
        checkpoints={name: checkpoint for name, checkpoint in checkpoints.items() if checkpoint is not None},
        unrated=tuple(name for name in order if name not in rated),
        num_votes=int(votes.is_cast.sum()),
        median_s=pace,
        num_timed=len(times),
        both_bad_share=_both_bad_share(votes),
        excluded=tuple(excluded),
        num_excluded_votes=board.num_excluded_votes,
        categories=board.categories,
    )


def _both_bad_share(votes: VoteColumns) -> float | None:
    cast = votes.label[votes.is_cast]
    return float((cast == LABELS.index(Label.BOTH_BAD)).mean()) if len(cast) else None


@dataclass(frozen=True)
class Fragile:
    """Dependence of first place on single votes and raters. `without`: the board without each rater, most influential
    first; `raters`: names by id.
    """

    fragility: Fragility
    without: tuple[WithoutRater, ...]
    raters: dict[str, str]


def board_fragility(ctx: Context, campaign_id: str) -> Fragile | None:
    """Return what first place hangs on; None unless two contestants have votes. Raises NotFound."""
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        votes = read_board_columns(session, campaign_id).votes
        raters = dict(session.execute(select(Rater.id, Rater.name).where(Rater.id.in_(votes.raters))).all())
    if not len(votes):
        return None
    return Fragile(first_place_fragility(votes), without_each_rater(votes), raters)


def export_votes_csv(ctx: Context, campaign_id: str) -> str:
    """Return a campaign's votes as CSV that `roundhouse rating fit` reads. Raters are numbered, not named, as in
    `list_raters`; equal prompts share a number.

    `identical` marks ties of equal answers, `excluded` votes that the board leaves out; `reasons` are separated by
    semicolons, `flag` says what is wrong with the battle. A cell that a spreadsheet would read as a formula is prefixed
    with an apostrophe.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        names = contestant_names(session, campaign_id)
        votes = valid_votes(session, campaign_id)
        excluded = excluded_raters(session, campaign_id)
        columns = (CampaignPrompt.id, CampaignPrompt.position, CampaignPrompt.category, CampaignPrompt.messages)
        prompts = {
            row.id: row for row in session.execute(select(*columns).where(CampaignPrompt.campaign_id == campaign_id))
        }
        remarks = {
            row.id: row
            for row in session.execute(
                select(Vote.id, Vote.note, Vote.reasons, Vote.flag)
                .join(Battle, Battle.id == Vote.battle_id)
                .where(Battle.campaign_id == campaign_id)
            )
        }
        raters = {row.rater.id: row.label for row in read_raters(session, campaign_id)}
    numbers: dict[str, int] = {}
    for vote in votes:
        numbers[vote.prompt_key] = min(numbers.get(vote.prompt_key, sys.maxsize), prompts[vote.prompt_id].position + 1)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for vote in votes:
        seconds = "" if vote.duration_ms is None else f"{vote.duration_ms / 1000:.1f}"
        row = [
            f"prompt {numbers[vote.prompt_key]}",
            raters[vote.rater_id],
            names[vote.a],
            names[vote.b],
            vote.label,
            vote.turn,
            prompts[vote.prompt_id].category,
            f"{vote.sampling_probability:.6g}",
            seconds,
            "yes" if vote.identical else "",
            "yes" if vote.rater_id in excluded else "",
            f"{vote.created_at:%Y-%m-%dT%H:%M:%SZ}",
            remarks[vote.id].note,
            "; ".join(remarks[vote.id].reasons),
            remarks[vote.id].flag,
            prompt_text(prompts[vote.prompt_id].messages),
        ]
        writer.writerow([safe_cell(cell) for cell in row])
    return out.getvalue()


def _plan(verdicts: tuple[PairVerdict, ...], *, pace: float | None) -> tuple[PlanOption, ...]:
    undecided = next((verdict for verdict in verdicts if verdict.outcome == "undecided"), None)
    if undecided is None:
        return ()
    return plan_options(
        spread=undecided.spread,
        alpha=ALPHA,
        num_pairs=undecided.num_pairs,
        seconds_per_vote=pace,
        leaning=undecided.leaning,
        votes_per_rater=undecided.decisive_per_rater,
        cast_per_rater=undecided.votes_per_rater,
    )


def _verdicts(votes: VoteColumns, order: list[str], *, gap: float, pace: float | None) -> tuple[PairVerdict, ...]:
    by_pair = votes_by_pair(votes)
    ranks = [(above, below) for above in range(len(order)) for below in range(above + 1, len(order))]
    ranks.sort(key=lambda pair: (pair[1] - pair[0], pair[0]))
    verdicts = []
    for above, below in ranks[:MAX_VERDICTS]:
        first, second = order[above], order[below]
        pair = by_pair.get((first, second)) or by_pair.get((second, first), NO_VOTES).swapped()
        verdicts.append(
            judge_pair(
                pair, first, second, smallest_gap_elo=gap, alpha=ALPHA, num_pairs=len(ranks), seconds_per_vote=pace
            )
        )
    return tuple(verdicts)


def _checkpoints(session: Session, campaign_id: str) -> dict[str, str | None]:
    """Return each contestant's checkpoint by the contestant's name; None for an endpoint or a file. Authors of gold
    pairs are none.
    """
    names = contestant_names(session, campaign_id)
    rows = session.execute(
        select(Contestant.id, Contestant.checkpoint_id).where(
            Contestant.campaign_id == campaign_id, Contestant.kind.not_in(("gold_better", "gold_worse"))
        )
    )
    return {names[contestant_id]: checkpoint_id for contestant_id, checkpoint_id in rows}
