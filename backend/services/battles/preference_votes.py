"""Read what a campaign's votes say about its answers: on pairs, ratings of single ones, raters' better ones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import AnswerRating, Battle, CampaignPrompt, Checkpoint, Completion, Contestant, Vote
from backend.domain.battles.campaign import Messages
from backend.domain.battles.preferences import Answers, CastVote
from backend.services.battles.quality import excluded_raters
from backend.services.battles.views import valid_votes

LABELS = frozenset({"A", "B", "TIE", "BOTH_BAD"})
VOTE = "vote"


@dataclass(frozen=True)
class PromptRow:
    """A prompt of a campaign."""

    id: str
    messages: Messages
    content_hash: str
    category: str


@dataclass(frozen=True)
class AuthoredAnswer:
    """A completion with its author: the contestant's name and, if it is one, its checkpoint."""

    id: str
    prompt_id: str
    text: str
    tokens: int
    author: str
    checkpoint_id: str | None


@dataclass(frozen=True)
class Rewrite:
    """A better answer that a rater wrote."""

    vote_id: str
    prompt_id: str
    text: str


@dataclass(frozen=True)
class CampaignVotes:
    """Everything that training rows are made of. Votes of excluded raters are left out and counted."""

    prompts: dict[str, PromptRow]
    answers: dict[str, AuthoredAnswer]
    votes: list[CastVote]
    rewrites: list[Rewrite]
    ratings: dict[str, list[int]]
    excluded_raters: frozenset[str]
    num_excluded_votes: int

    @property
    def known(self) -> Answers:
        """The texts and categories that the rules look at."""
        return Answers(
            category={prompt.id: prompt.category for prompt in self.prompts.values()},
            text={answer.id: answer.text.strip() for answer in self.answers.values()},
        )


def read_campaign_votes(session: Session, campaign_id: str) -> CampaignVotes:
    """Return a campaign's votes with their prompts and answers. Gold pairs, repeats and equal answers are none."""
    excluded = excluded_raters(session, campaign_id)
    shown = {
        row.id: row
        for row in session.execute(
            select(Battle.id, Battle.completion_a_id, Battle.completion_b_id).where(
                Battle.campaign_id == campaign_id, Battle.purpose == VOTE
            )
        )
    }
    valid = [vote for vote in valid_votes(session, campaign_id) if vote.battle_id in shown]
    counted = [vote for vote in valid if vote.rater_id not in excluded]
    votes = [
        CastVote(
            vote=vote.id,
            rater=vote.rater_id,
            prompt=vote.prompt_id,
            answers=(shown[vote.battle_id].completion_a_id, shown[vote.battle_id].completion_b_id),
            label=vote.label,
        )
        for vote in counted
        if vote.label in LABELS
    ]
    return CampaignVotes(
        prompts=_prompts(session, campaign_id),
        answers=_answers(session, campaign_id),
        votes=votes,
        rewrites=_rewrites(session, {vote.id: vote.prompt_id for vote in counted}),
        ratings=_ratings(session, campaign_id, excluded),
        excluded_raters=excluded,
        num_excluded_votes=len(valid) - len(counted),
    )


def _prompts(session: Session, campaign_id: str) -> dict[str, PromptRow]:
    rows = session.scalars(
        select(CampaignPrompt).where(CampaignPrompt.campaign_id == campaign_id).order_by(CampaignPrompt.position)
    )
    return {
        row.id: PromptRow(row.id, list(row.messages), row.content_hash, row.category)
        for row in rows
        if row.purpose == VOTE
    }


def _answers(session: Session, campaign_id: str) -> dict[str, AuthoredAnswer]:
    query = (
        select(Completion, Contestant.label, Checkpoint.id, Checkpoint.name)
        .join(Contestant, Contestant.id == Completion.contestant_id)
        .outerjoin(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
        .where(Contestant.campaign_id == campaign_id)
    )
    return {
        row.id: AuthoredAnswer(row.id, row.prompt_id, row.text, row.tokens, name or label, checkpoint_id)
        for row, label, checkpoint_id, name in session.execute(query)
    }


def _rewrites(session: Session, prompts: dict[str, str]) -> list[Rewrite]:
    rows = session.execute(
        select(Vote.id, Vote.rewrite)
        .where(Vote.id.in_(prompts), Vote.rewrite.is_not(None))
        .order_by(Vote.created_at, Vote.id)
    )
    return [Rewrite(vote, prompts[vote], text.strip()) for vote, text in rows if text and text.strip()]


def _ratings(session: Session, campaign_id: str, excluded: frozenset[str]) -> dict[str, list[int]]:
    rows = session.execute(
        select(AnswerRating.completion_id, AnswerRating.rater_id, AnswerRating.value)
        .where(AnswerRating.campaign_id == campaign_id)
        .order_by(AnswerRating.revision)
    )
    newest = {(completion, rater): value for completion, rater, value in rows if rater not in excluded}
    ratings: dict[str, list[int]] = defaultdict(list)
    for (completion, _), value in newest.items():
        ratings[completion].append(value)
    return dict(ratings)
