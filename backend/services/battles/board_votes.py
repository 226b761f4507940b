"""A campaign's votes as records for the statistics: named contestants, prompts by content, the form of the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import CampaignPrompt, Completion, Contestant
from backend.domain.battles.answer_features import AnswerFeatures, measure_answer, relative_difference
from backend.domain.battles.votes import FloatArray, VoteColumns, VoteRecord
from backend.services.battles.exclusions import excluded_raters
from backend.services.battles.quality import vote_seconds
from backend.services.battles.views import VOTES, ValidVote, contestant_names, valid_votes
from backend.services.battles.vote_log import Revision, read_vote_log


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
