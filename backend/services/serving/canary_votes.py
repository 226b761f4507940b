"""Thumbs on the answers of a canary and of the stable revision beside it."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import ApiKey, Deployment, Feedback, Replica, Usage
from backend.domain.serving.canary import Votes, count_paired_votes
from backend.services.context import Context
from backend.services.serving.endpoints import find_endpoint
from backend.services.serving.feedback import RATED_REQUEST, given_feedback
from backend.services.serving.rollout import CANARY, STABLE

MAX_VOTES = 5000
"""Thumbs on the answers of both sides that are read, the first ones: which they are must not depend on how they came
out.
"""


def read_canary_thumbs(session: Session, canary: Deployment) -> Votes:
    """Return the thumbs since a canary began, from the playground and from `POST /v1/feedback`, in the order in which
    they came.
    """
    rated = _rated(session, canary)
    mine = [thumb > 0 for side, thumb, _ in rated if side == CANARY]
    stable = [thumb > 0 for side, thumb, _ in rated if side == STABLE]
    wins, losses = count_paired_votes(mine, stable)
    known = {voter for _, _, voter in rated if voter is not None}
    votes = Votes(sum(mine), len(mine), sum(stable), len(stable), wins, losses, voters=len(known))
    votes = replace(votes, anonymous=sum(voter is None for _, _, voter in rated))
    if not wins + losses:
        return votes
    # numpy and scipy, which no command on endpoints needs
    import numpy as np

    from backend.domain.battles.inference.evidence import group_e_value, mixture_e_value

    codes = {voter: code for code, voter in enumerate(known)}
    voters = np.array([len(known) + at if voter is None else codes[voter] for at, (*_, voter) in enumerate(rated)])
    thumbs = np.array([float(thumb > 0) for _, thumb, _ in rated])
    evidence, leader = group_e_value(thumbs, voters, np.array([side == CANARY for side, _, _ in rated]))
    return replace(votes, e_value=mixture_e_value(wins, losses), voter_e_value=evidence, voter_side=leader)


def canary_votes(ctx: Context, name: str) -> Votes:
    """Return the thumbs on an endpoint's canary and its stable revision; none where no canary runs."""
    with ctx.db.read() as session:
        query = select(Deployment).where(
            Deployment.endpoint_id == find_endpoint(session, name).id, Deployment.stopped_at.is_(None)
        )
        canary = session.scalars(query.where(Deployment.role == CANARY).limit(1)).first()
        return Votes() if canary is None else read_canary_thumbs(session, canary)


def _rated(session: Session, canary: Deployment) -> list[tuple[str, int, str | None]]:
    """Return (side, thumb, voter) of the thumbs since a canary began, on answers of it and of its endpoint's stable
    revisions.
    """
    voter = func.coalesce(Feedback.user_id, ApiKey.user_id, Feedback.key_id)
    query = (
        given_feedback(Deployment.role, Feedback.rating, voter)
        .join(Usage, Usage.id == RATED_REQUEST)
        .outerjoin(ApiKey, ApiKey.id == Feedback.key_id)
        .join(Replica, Replica.id == Usage.replica_id)
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .where(
            Feedback.rating.is_not(None),
            Feedback.created_at >= canary.created_at,
            Deployment.endpoint_id == canary.endpoint_id,
            (Deployment.id == canary.id) | (Deployment.role == STABLE),
        )
        .order_by(Feedback.created_at, RATED_REQUEST)
        .limit(MAX_VOTES)
    )
    return [(role, thumb, voter) for _, role, thumb, voter in session.execute(query)]
