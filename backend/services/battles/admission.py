"""Admission to the ballot's HTTP interface: signed tokens, checked against the rater's row at every request."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.db.tables import Rater, User
from backend.errors import NotAllowed
from backend.services.battles.raters import LOCAL_RATER, RaterView, browser_hash, view_of_rater
from backend.services.context import Context
from backend.services.people.signatures import sign, unsign

PURPOSE = "ballot"
TOKEN_AGE_S = 12 * 3600


@dataclass(frozen=True)
class Voter:
    """A rater who may vote in one campaign now."""

    campaign_id: str
    rater: RaterView


def ballot_token(ctx: Context, campaign_id: str, rater: RaterView) -> str:
    """Return the signed statement that this rater was admitted to this campaign; it holds for twelve hours, and until
    the rater's account is signed out or the link is reissued. Send it as `Authorization: Bearer`.
    """
    with ctx.db.read() as session:
        epoch = _epoch(session, session.get_one(Rater, rater.id))
    return sign(ctx, {"campaign": campaign_id, "rater": rater.id, "epoch": epoch}, purpose=PURPOSE)


def voter_of_token(ctx: Context, token: str, *, browser: str = "") -> Voter:
    """Return whom a token admits. Raises NotAllowed if it is forged or too old, if the link behind it has expired, was
    revoked or belongs to another browser (`browser` is its cookie), if the rater's account was signed out or the link
    reissued since, and if the account of the rater or of the link's maker is disabled.
    """
    data = unsign(ctx, token, purpose=PURPOSE, max_age_s=TOKEN_AGE_S)
    with ctx.db.read() as session:
        row = session.get(Rater, data.get("rater", ""))
        if row is None or data.get("epoch") != _epoch(session, row) or not _may_vote(session, ctx, row, browser):
            raise NotAllowed("This ballot is not valid any more.", remedy="Open your link again, or ask for a new one.")
        return Voter(data.get("campaign", ""), view_of_rater(row))


def _epoch(session: Session, row: Rater) -> str:
    """Return what changes when a rater's tokens end: the account's sessions, or the secret of the link."""
    user = session.get(User, row.user_id) if row.user_id else None
    return (row.link_hash or "")[:16] if user is None else str(user.session_epoch)


def _may_vote(session: Session, ctx: Context, row: Rater, browser: str) -> bool:
    if row.id == LOCAL_RATER:
        return not ctx.sign_in
    for user_id in (row.user_id, row.created_by):
        user = session.get(User, user_id) if user_id else None
        if user is not None and user.disabled_at is not None:
            return False
    if row.link_hash is None:
        return row.user_id is not None  # the raters of imported votes have neither
    if row.single_use and row.browser_hash != browser_hash(browser):
        return False
    return row.expires_at is not None and row.expires_at > ctx.now()
