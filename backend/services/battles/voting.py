"""Actions of the ballot's HTTP interface: open, vote, grade, undo. A campaign closes once its stopping rule is met.

What a vote may say, and how fast, is checked in `ballots`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.races import retry_races
from backend.db.tables import AnswerRating, Battle, Campaign
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.verdicts import is_decided, votes_by_pair
from backend.errors import InvalidInput
from backend.services.battles.assignment import VoteInput, opened_pool
from backend.services.battles.ballots import ServedBallot, VoteForm, check_label, rater_progress, serve_battles, undo
from backend.services.battles.raters import Voter
from backend.services.battles.standings import read_board_columns
from backend.services.battles.views import RATED, contestant_names, count_votes, find_campaign
from backend.services.context import Context

NUM_HELD = 2
"""Battles that a browser holds: the current one and the next."""


def open_ballot(ctx: Context, voter: Voter) -> ServedBallot:
    """Return the rater's current battle and the next. A closed campaign has none, and says so in the progress."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, voter.campaign_id)
        config = campaign.config
        closed = campaign.closed_at is not None
    if closed or _close_when_over(ctx, voter.campaign_id, config):
        return ServedBallot((), rater_progress(ctx, voter.campaign_id, voter.rater), config)
    return serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD)


def submit_vote(ctx: Context, voter: Voter, vote: VoteInput) -> ServedBallot:
    """Store a vote and return the rater's open battles. A duration can't exceed the time since the battle was served.

    Raises InvalidInput for what the campaign's form doesn't offer, and what `serve_battles` raises.
    """
    check_label(vote.label, skip=True)
    return _submit(ctx, voter, vote, form="vote")


def submit_rating(ctx: Context, voter: Voter, battle_id: str, *, value: int, note: str = "") -> ServedBallot:
    """Store the grade of a single answer, 1 to 5, and return the rater's open battles. A later grade supersedes it."""
    if not 1 <= value <= 5:
        raise InvalidInput(f"A grade of {value} is not between 1 and 5.", remedy="Grade 1 to 5.", field="value")
    served = _submit(ctx, voter, VoteInput(battle=battle_id, label=RATED, note=note), form="grade")
    store_answer_rating(ctx, voter, battle_id, value=value, note=note)
    return served


def _submit(ctx: Context, voter: Voter, vote: VoteInput, *, form: VoteForm) -> ServedBallot:
    served = serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD, vote=vote, form=form)
    if _close_when_over(ctx, voter.campaign_id, served.config):
        served = replace(served, progress=replace(served.progress, closed=True))
    return served


def undo_vote(ctx: Context, voter: Voter) -> ServedBallot:
    """Undo the rater's newest vote or grade; its battle is the first of the open ones."""
    battle_id = undo(ctx, voter.campaign_id, voter.rater)
    served = serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD)
    if served.battles and served.battles[0].is_single:
        store_answer_rating(ctx, voter, battle_id, value=0)
    return served


@retry_races
def store_answer_rating(ctx: Context, voter: Voter, battle_id: str, *, value: int, note: str = "") -> None:
    """Append a grade of a battle's answer; 0 takes the last one back."""
    with ctx.db.write() as session:
        battle = session.get_one(Battle, battle_id)
        mine = (AnswerRating.completion_id == battle.completion_a_id) & (AnswerRating.rater_id == voter.rater.id)
        last = session.scalar(select(AnswerRating).where(mine).order_by(AnswerRating.revision.desc()).limit(1))
        if value == (last.value if last is not None else 0):
            return
        session.add(
            AnswerRating(
                campaign_id=voter.campaign_id,
                completion_id=battle.completion_a_id,
                rater_id=voter.rater.id,
                revision=last.revision + 1 if last else 1,
                value=value,
                note=note,
                created_at=ctx.now(),
            )
        )


def _close_when_over(ctx: Context, campaign_id: str, config: CampaignConfig) -> bool:
    """Close a campaign whose stopping rule is met. The pool's count says whether counting stored votes is worth it."""
    if config.stop_votes is not None and config.stop_at is None and not config.stop_on_verdict:
        with ctx.db.read() as session, opened_pool(ctx, session, find_campaign(session, campaign_id)) as held:
            if held.pool.num_votes < config.stop_votes:
                return False
    if config.stop_votes is None and config.stop_at is None and not config.stop_on_verdict:
        return False
    return close_when_over(ctx, campaign_id)


ALPHA = 0.05
VERDICT_EVERY_S = 10.0
"""Verdicts read every vote, so they are computed again only so often."""

_checked: dict[str, float] = {}
_lock = threading.Lock()


def close_when_over(ctx: Context, campaign_id: str) -> bool:
    """Close a campaign whose stopping rule is met; return whether it is closed now.

    Votes that were under way at that moment still count, so there may be a few more than asked for.
    """
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        if campaign.closed_at is not None:
            return True
        over = is_over(session, ctx, campaign)
    if over:
        with ctx.db.write() as session:
            campaign = find_campaign(session, campaign_id)
            campaign.closed_at = campaign.closed_at or ctx.now()
    return over


def is_over(session: Session, ctx: Context, campaign: Campaign) -> bool:
    """Return whether a campaign has its votes, its date has passed, or every pair has a verdict."""
    config = campaign.config
    if config.stop_at is not None and config.stop_at <= ctx.now():
        return True
    if config.stop_votes is not None and count_votes(session, campaign.id)[0] >= config.stop_votes:
        return True
    return config.stop_on_verdict and _is_due(campaign.id) and _all_decided(session, campaign.id)


def _is_due(campaign_id: str) -> bool:
    now = time.monotonic()
    with _lock:
        if now < _checked.get(campaign_id, 0.0):
            return False
        _checked[campaign_id] = now + VERDICT_EVERY_S
    return True


def _all_decided(session: Session, campaign_id: str) -> bool:
    """Return whether every pair is better or worse, at a family-wise error rate of 5 %."""
    votes = read_board_columns(session, campaign_id).votes
    names = sorted(contestant_names(session, campaign_id).values())
    by_pair, num_pairs = votes_by_pair(votes), len(names) * (len(names) - 1) // 2
    return len(by_pair) == num_pairs > 0 and all(is_decided(pair, alpha=ALPHA / num_pairs) for pair in by_pair.values())
