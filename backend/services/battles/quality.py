"""Quality of a campaign's raters: from its votes, repeats and gold pairs."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Completion, Contestant
from backend.domain.battles.rater_quality import RatedVote, RaterQuality, rater_quality
from backend.domain.battles.votes import VoteRecord
from backend.services.battles.views import find_campaign, valid_votes
from backend.services.context import Context

MEASURING = ("vote", "repeat", "gold")
"""Purposes of the battles that say something about a rater."""


def rater_qualities(ctx: Context, campaign_id: str) -> dict[str, RaterQuality]:
    """Return the quality of each rater with votes, by the rater's id. A flag excludes no one. Raises NotFound."""
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        votes = valid_votes(session, campaign_id, purposes=MEASURING)
        words = _words(session, {vote.completion_a_id for vote in votes} | {vote.completion_b_id for vote in votes})
        better = set(session.scalars(select(Contestant.id).where(Contestant.campaign_id == campaign_id, Contestant.kind == "gold_better")))
    rated = [
        RatedVote(
            VoteRecord(prompt=vote.prompt_key, rater=vote.rater_id, a=vote.a, b=vote.b, winner=vote.label),
            seconds=None if vote.duration_ms is None else vote.duration_ms / 1000,
            words=words[vote.completion_a_id] + words[vote.completion_b_id],
            gold=("A" if vote.a in better else "B") if vote.purpose == "gold" else None,
        )
        for vote in votes
    ]
    return {row.rater: row for row in rater_quality(rated)}


def _words(session: Session, completion_ids: set[str]) -> dict[str, int]:
    """Return the number of words of each completion."""
    ids, counts = sorted(completion_ids), dict[str, int]()
    for start in range(0, len(ids), 500):
        rows = session.execute(select(Completion.id, Completion.text).where(Completion.id.in_(ids[start : start + 500])))
        counts.update((row[0], len(row[1].split())) for row in rows)
    return counts
