"""Stopping rule of a campaign: so many votes, a date, or a verdict on every pair."""

from __future__ import annotations

import threading
import time

from sqlalchemy.orm import Session

from backend.db.tables import Campaign
from backend.domain.battles.inference.pair_votes import votes_by_pair
from backend.domain.battles.verdicts import is_decided
from backend.services.battles.board_votes import read_board_columns
from backend.services.battles.views import contestant_names, count_votes, find_campaign
from backend.services.context import Context

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
