"""Thumbs on the answers of a canary and of the stable revision beside it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Deployment, Feedback, Message, Replica, Usage
from backend.domain.serving.canary import Votes, pair_votes
from backend.services.context import Context
from backend.services.serving.endpoints import find_endpoint
from backend.services.serving.rollout import CANARY, STABLE

MAX_VOTES = 5000
"""Thumbs of each source that are read, the first ones: which they are must not depend on how they came out."""
CHUNK = 500


def read_votes(session: Session, canary: Deployment) -> Votes:
    """Return the thumbs since a canary began, from the playground and from `POST /v1/feedback`, in the order in which they came."""
    rated = _rated_requests(session, since=canary.created_at)
    if not rated:
        return Votes()
    sides = _sides(session, canary, [request for _, request, _ in rated])
    mine = [liked for _, request, liked in rated if sides.get(request) == CANARY]
    stable = [liked for _, request, liked in rated if sides.get(request) == STABLE]
    wins, losses = pair_votes(mine, stable)
    evidence = 1.0
    if wins + losses:
        from backend.domain.battles.inference.evidence import mixture_e_value  # imports scipy, which no command on endpoints needs

        evidence = mixture_e_value(wins, losses)
    return Votes(sum(mine), len(mine), sum(stable), len(stable), wins, losses, evidence)


def canary_votes(ctx: Context, name: str) -> Votes:
    """Return the thumbs on an endpoint's canary and its stable revision; none where no canary runs."""
    with ctx.db.read() as session:
        query = select(Deployment).where(Deployment.endpoint_id == find_endpoint(session, name).id, Deployment.stopped_at.is_(None))
        canary = session.scalars(query.where(Deployment.role == CANARY).limit(1)).first()
        return Votes() if canary is None else read_votes(session, canary)


def _rated_requests(session: Session, *, since: datetime) -> list[tuple[datetime, str, bool]]:
    """Return (when, request, liked) of the thumbs since a moment. A message of the playground names the request that answered it."""
    recent = (Feedback.rating.is_not(None), Feedback.created_at >= since)
    api = select(Feedback.created_at, Feedback.request_id, Feedback.rating).where(Feedback.source == "api", *recent)
    played = select(Feedback.created_at, Message.usage, Feedback.rating).join(Message, Message.id == Feedback.request_id)
    rows = [(at, request, rating) for at, request, rating in session.execute(api.order_by(Feedback.created_at).limit(MAX_VOTES))]
    played = played.where(Feedback.source == "playground", *recent).order_by(Feedback.created_at)
    rows += [
        (at, usage["request_id"], rating)
        for at, usage, rating in session.execute(played.limit(MAX_VOTES))
        if (usage or {}).get("request_id")
    ]
    return sorted((at, request, (rating or 0) > 0) for at, request, rating in rows)


def _sides(session: Session, canary: Deployment, requests: list[str]) -> dict[str, str]:
    """Return which side answered each request of the canary's endpoint."""
    sides: dict[str, str] = {}
    for start in range(0, len(requests), CHUNK):
        rows = session.execute(
            select(Usage.id, Deployment.role)
            .join(Replica, Replica.id == Usage.replica_id)
            .join(Deployment, Deployment.id == Replica.deployment_id)
            .where(
                Usage.id.in_(requests[start : start + CHUNK]),
                Deployment.endpoint_id == canary.endpoint_id,
                (Deployment.id == canary.id) | (Deployment.role == STABLE),
            )
        )
        sides.update((request, role) for request, role in rows)
    return sides
