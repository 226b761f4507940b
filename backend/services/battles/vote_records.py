"""A campaign's votes as records for the statistics: named contestants, prompts by content, the form of the answers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, CampaignPrompt, Completion, Contestant, RaterExclusion, Vote
from backend.domain.battles.answer_features import AnswerFeatures, measure_answer
from backend.domain.battles.votes import VoteRecord
from backend.services.battles.exclusions import excluded_raters
from backend.services.battles.views import ValidVote, contestant_names, valid_votes

Revision = tuple[int, ...]


@dataclass(frozen=True)
class BoardVotes:
    """Valid votes, oldest first, with a record for each. `excluded_votes` are not among them."""

    votes: tuple[ValidVote, ...]
    records: tuple[VoteRecord, ...]
    excluded: frozenset[str]
    num_excluded_votes: int
    categories: tuple[str, ...]


def read_board_votes(session: Session, campaign_id: str, *, with_excluded: bool = False, with_forms: bool = False) -> BoardVotes:
    """Return a campaign's votes. `with_excluded` counts excluded raters too; `with_forms` measures the answers, which reads their texts.

    Equal prompts have one name, so that a prompt asked again is the same prompt.
    """
    votes = valid_votes(session, campaign_id)
    excluded = excluded_raters(session, campaign_id)
    counted = [vote for vote in votes if with_excluded or vote.rater_id not in excluded]
    names = contestant_names(session, campaign_id)
    named = select(CampaignPrompt.id, CampaignPrompt.category).where(CampaignPrompt.campaign_id == campaign_id)
    categories = dict(session.execute(named).all())
    forms = _forms(session, campaign_id) if with_forms else {}
    return BoardVotes(
        votes=tuple(counted),
        records=tuple(_record(vote, names, categories, forms) for vote in counted),
        excluded=excluded,
        num_excluded_votes=sum(vote.rater_id in excluded for vote in votes),
        categories=tuple(sorted(set(filter(None, categories.values())))),
    )


def votes_revision(session: Session, campaign_id: str) -> Revision:
    """Return numbers that change with every vote, undo and exclusion of a campaign, and with its contestants."""
    votes = select(func.count()).select_from(Vote).join(Battle, Battle.id == Vote.battle_id).where(Battle.campaign_id == campaign_id)
    exclusions = select(func.count()).select_from(RaterExclusion).where(RaterExclusion.campaign_id == campaign_id)
    contestants = select(func.count()).select_from(Contestant).where(Contestant.campaign_id == campaign_id)
    return tuple(session.scalar(query) or 0 for query in (votes, exclusions, contestants))


def _record(vote: ValidVote, names: dict[str, str], categories: dict[str, str], forms: dict[str, AnswerFeatures]) -> VoteRecord:
    return VoteRecord(
        prompt=vote.prompt_key,
        rater=vote.rater_id,
        a=names[vote.a],
        b=names[vote.b],
        winner=vote.label,
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
