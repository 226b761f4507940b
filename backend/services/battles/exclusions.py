"""Exclude raters from a campaign's board, with the reason and the person kept. Votes are never deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, Rater, RaterExclusion, User
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.battles.views import count_votes, find_campaign
from backend.services.context import Context, Person, require_builder

MAX_REASON = 500


@dataclass(frozen=True)
class ExclusionView:
    """One decision on a rater: excluded, or counted again. `by` is None on an installation without accounts."""

    rater_id: str
    rater: str
    excluded: bool
    reason: str
    by: str | None
    at: datetime


def exclude_rater(ctx: Context, campaign_id: str, rater_id: str, *, reason: str, person: Person) -> ExclusionView:
    """Leave a rater's votes out of the board. Raises InvalidInput without reason, NotFound, Conflict if excluded."""
    reason = reason.strip()
    if not 3 <= len(reason) <= MAX_REASON:
        raise InvalidInput(
            "An exclusion needs a reason, because it is shown beside the board.",
            remedy=f"Write 3 to {MAX_REASON} characters, for instance: votes faster than the answers can be read.",
            field="reason",
        )
    return _decide(ctx, campaign_id, rater_id, excluded=True, reason=reason, person=person)


def include_rater(ctx: Context, campaign_id: str, rater_id: str, *, person: Person) -> ExclusionView:
    """Count an excluded rater's votes again. Raises NotFound, Conflict if they count already."""
    return _decide(ctx, campaign_id, rater_id, excluded=False, reason="", person=person)


def _decide(
    ctx: Context, campaign_id: str, rater_id: str, *, excluded: bool, reason: str, person: Person
) -> ExclusionView:
    require_builder(person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        rater = session.get(Rater, rater_id)
        took_part = select(Battle.id).where(Battle.campaign_id == campaign.id, Battle.rater_id == rater_id).limit(1)
        if rater is None or session.scalar(took_part) is None:
            raise NotFound("This campaign has no such rater.", field="rater")
        if (rater_id in excluded_raters(session, campaign.id)) == excluded:
            state = "excluded already" if excluded else "not excluded"
            raise Conflict(f"“{rater.name}” is {state}.", field="rater")
        row = RaterExclusion(
            campaign_id=campaign.id,
            rater_id=rater_id,
            excluded=excluded,
            reason=reason,
            created_by=person.id,
            created_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        return ExclusionView(rater_id, rater.name, excluded, reason, person.name if person.id else None, row.created_at)


def excluded_raters(session: Session, campaign_id: str) -> frozenset[str]:
    """Return the ids of the raters whose votes a campaign's board leaves out now."""
    rows = session.execute(
        select(RaterExclusion.rater_id, RaterExclusion.excluded)
        .where(RaterExclusion.campaign_id == campaign_id)
        .order_by(RaterExclusion.created_at, RaterExclusion.id)
    )
    newest = dict(rows.all())
    return frozenset(rater_id for rater_id, excluded in newest.items() if excluded)


def count_excluded_votes(ctx: Context, campaign_id: str) -> tuple[int, int]:
    """Return the number of votes that a campaign's board leaves out, and of the raters who cast them."""
    with ctx.db.read() as session:
        excluded = excluded_raters(session, campaign_id)
        return count_votes(session, campaign_id, raters=excluded) if excluded else (0, 0)


def list_exclusions(ctx: Context, campaign_id: str) -> list[ExclusionView]:
    """Return every decision on a campaign's raters, newest first."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(RaterExclusion, Rater.name, User.name)
            .join(Rater, Rater.id == RaterExclusion.rater_id)
            .outerjoin(User, User.id == RaterExclusion.created_by)
            .where(RaterExclusion.campaign_id == campaign_id)
            .order_by(RaterExclusion.created_at.desc(), RaterExclusion.id)
        )
        return [
            ExclusionView(row.rater_id, name, row.excluded, row.reason, by, row.created_at) for row, name, by in rows
        ]
