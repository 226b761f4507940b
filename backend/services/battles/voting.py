"""Actions of the ballot's HTTP interface: the form of a campaign, checked votes and grades, with limits on their
pace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import select

from backend.db.races import retry_races
from backend.db.tables import AnswerRating, Battle
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.votes import Label
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.battles.admission import Voter
from backend.services.battles.assignment.ledgers import RaterLedger
from backend.services.battles.assignment.pools import opened_pool
from backend.services.battles.assignment.rows import VoteInput
from backend.services.battles.ballots import ServedBallot, check_label, rater_progress, serve_battles, undo
from backend.services.battles.stopping import close_when_over
from backend.services.battles.views import RATED, SKIPPED, find_campaign
from backend.services.context import Context

DIMENSION_LABELS = (Label.A, Label.B, Label.TIE)
MAX_NOTE, MAX_REWRITE, MAX_FLAG = 4000, 50_000, 200
MAX_DURATION_MS = 24 * 3600 * 1000
NUM_HELD = 2
"""Battles that a browser holds: the current one and the next."""


class TooFast(Conflict):
    """A rater votes faster than the campaign allows."""


@dataclass(frozen=True)
class Ballot:
    """First answer to a browser: battles with the rater's progress, and the campaign's questions."""

    served: ServedBallot
    config: CampaignConfig


def open_ballot(ctx: Context, voter: Voter) -> Ballot:
    """Return the rater's current battle and the next. A closed campaign has none, and says so in the progress."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, voter.campaign_id)
        config = CampaignConfig.model_validate(campaign.config.get("config", {}))
        closed = campaign.closed_at is not None
    if closed or _close_when_over(ctx, voter.campaign_id, config):
        return Ballot(ServedBallot((), rater_progress(ctx, voter.campaign_id, voter.rater)), config)
    return Ballot(serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD), config)


def submit_vote(ctx: Context, voter: Voter, vote: VoteInput) -> ServedBallot:
    """Store a vote and return the rater's open battles. A duration can't exceed the time since the battle was served.

    Raises InvalidInput for what the campaign's form doesn't offer, TooFast, and what `cast_vote` raises.
    """
    check_label(vote.label, skip=True)
    return _submit(ctx, voter, vote, single=False)


def submit_rating(ctx: Context, voter: Voter, battle_id: str, *, value: int, note: str = "") -> ServedBallot:
    """Store the grade of a single answer, 1 to 5, and return the rater's open battles. A later grade supersedes it."""
    if not 1 <= value <= 5:
        raise InvalidInput(f"A grade of {value} is not between 1 and 5.", remedy="Grade 1 to 5.", field="value")
    served = _submit(ctx, voter, VoteInput(battle_id, RATED, note=note), single=True)
    store_answer_rating(ctx, voter, battle_id, value=value, note=note)
    return served


def _submit(ctx: Context, voter: Voter, vote: VoteInput, *, single: bool) -> ServedBallot:
    campaign_config: list[CampaignConfig] = []

    def check(said: VoteInput, config: CampaignConfig, ledger: RaterLedger) -> VoteInput:
        campaign_config.append(config)
        _check_form(said, config, single=single)
        return _check_pace(ctx, said, config, ledger)

    served = serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD, vote=vote, check=check)
    if _close_when_over(ctx, voter.campaign_id, campaign_config[0]):
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
    """Close a campaign whose stopping rule is met. The pool's count says whether counting the stored votes is worth
    it.
    """
    if config.stop_votes is not None and config.stop_at is None and not config.stop_on_verdict:
        with ctx.db.read() as session, opened_pool(ctx, session, find_campaign(session, campaign_id)) as held:
            if held.pool.num_votes < config.stop_votes:
                return False
    if config.stop_votes is None and config.stop_at is None and not config.stop_on_verdict:
        return False
    return close_when_over(ctx, campaign_id)


def _check_form(vote: VoteInput, config: CampaignConfig, *, single: bool) -> None:
    if config.is_single and not single and vote.label != SKIPPED:
        raise InvalidInput("This campaign grades single answers.", remedy="Send a grade instead.", field="label")
    if single and not config.is_single:
        raise InvalidInput("This campaign compares two answers.", remedy="Send a vote instead.", field="value")
    known = [dimension.name for dimension in config.dimensions]
    for name, label in vote.dimensions.items():
        if name not in known:
            raise InvalidInput(
                f"The rubric has no dimension {name[:60]!r}.",
                remedy=f"Use {', '.join(known) or 'none'}.",
                field="dimensions",
            )
        if label not in DIMENSION_LABELS:
            raise InvalidInput(
                f"There is no verdict {label[:60]!r}.", remedy=f"Use {', '.join(DIMENSION_LABELS)}.", field="dimensions"
            )
    for reason in vote.reasons:
        if reason not in config.reasons:
            raise InvalidInput(
                f"There is no reason {reason[:60]!r}.", remedy="Use the reasons of the form.", field="reasons"
            )
    if vote.note and not config.note:
        raise InvalidInput("This campaign takes no notes.", field="note")
    if vote.rewrite is not None and not config.rewrite:
        raise InvalidInput("This campaign takes no rewritten answers.", field="rewrite")
    for text, limit, field in (
        (vote.note, MAX_NOTE, "note"),
        (vote.rewrite or "", MAX_REWRITE, "rewrite"),
        (vote.flag, MAX_FLAG, "flag"),
    ):
        _check_length(text, limit, field=field)


def _check_length(text: str, limit: int, *, field: str) -> None:
    if len(text) > limit:
        raise InvalidInput(f"The {field} has {len(text):,} characters.", remedy=f"Use at most {limit:,}.", field=field)


def _check_pace(ctx: Context, vote: VoteInput, config: CampaignConfig, ledger: RaterLedger) -> VoteInput:
    """Return the vote with a duration that is possible. Raises TooFast above the campaign's votes a minute,
    NotFound.
    """
    now = ctx.now()
    row = next((row for row in ledger.shown if row.battle_id == vote.battle_id), None)
    if row is None:
        raise NotFound("This battle was not served to you.", remedy="Reload the ballot.")
    if row.is_open and ledger.votes_since(now - timedelta(minutes=1)) >= config.votes_per_minute:
        raise TooFast(
            f"That is more than {config.votes_per_minute} votes a minute.", remedy="Read both answers, then vote again."
        )
    if vote.duration_ms is None:
        return vote
    longest_ms = round((now - row.served_at).total_seconds() * 1000)
    return replace(vote, duration_ms=max(0, min(vote.duration_ms, longest_ms, MAX_DURATION_MS)))
