"""Aliases: names such as `storyteller@production` for the checkpoint that holds them, and the decisions on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Alias, Campaign, Checkpoint, Deployment, Endpoint, Promotion, User
from backend.domain.attributes import view_of
from backend.domain.battles.promotion import PromotionEvidence
from backend.domain.serving.deployment import DeploymentConfig
from backend.services.context import Context
from backend.services.lookups import find_named

PROMOTE, REJECT, ROLLBACK = "promote", "reject", "rollback"


@dataclass(frozen=True)
class PromotionView:
    """A decision on an alias. `evidence` holds verdict and gates then, and `against`: why not. `rolled_back_at` is when
    a promotion was taken back.
    """

    id: str
    alias: str
    decision: str
    checkpoint_id: str
    checkpoint: str
    previous_id: str | None
    previous: str | None
    campaign_id: str | None
    campaign: str | None
    reason: str
    evidence: PromotionEvidence
    by: str
    created_at: datetime
    rolled_back_at: datetime | None = None

    @property
    def against(self) -> tuple[str, ...]:
        """Sentences of the evidence that spoke against a promotion; empty if none did."""
        return self.evidence.against


@dataclass(frozen=True)
class AliasView:
    """An alias, the endpoints that follow it, and its history, newest first. `rollback_id` is the checkpoint that held
    it before. `apart` names what those endpoints serve that serve another checkpoint, by endpoint.
    """

    id: str
    name: str
    checkpoint_id: str | None
    checkpoint: str | None
    rollback_id: str | None
    rollback: str | None
    endpoints: tuple[str, ...]
    apart: Mapping[str, str]
    history: tuple[PromotionView, ...]
    updated_at: datetime


def list_aliases(ctx: Context) -> list[AliasView]:
    """Return every alias by name."""
    with ctx.db.read() as session:
        return [alias_view(session, alias) for alias in session.scalars(select(Alias).order_by(Alias.name))]


def alias_names(ctx: Context) -> dict[str, list[str]]:
    """Return the names of the aliases that each checkpoint holds, by the checkpoint's id."""
    names: dict[str, list[str]] = {}
    with ctx.db.read() as session:
        held = select(Alias.checkpoint_id, Alias.name).where(Alias.checkpoint_id.is_not(None)).order_by(Alias.name)
        for checkpoint_id, name in session.execute(held):
            names.setdefault(str(checkpoint_id), []).append(name)
    return names


def get_alias(ctx: Context, name: str) -> AliasView:
    """Return an alias. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        return alias_view(session, find_alias(session, name))


def explain_alias(ctx: Context, alias: str | None, *, served: str) -> str:
    """Return what requests to an alias get from an endpoint that follows it and serves the checkpoint `served`; empty
    without an alias.
    """
    if alias is None:
        return ""
    held = get_alias(ctx, alias).checkpoint
    if held == served:
        return f"Requests to {alias} get {served} too, which holds the alias."
    return f"Requests to {alias} get {served} too, though {held} holds the alias until it is moved."


def find_alias(session: Session, name: str) -> Alias:
    """Return the row of an alias. Raises NotFound with similar names."""
    remedy = "Make one with `roundhouse promote CHECKPOINT --alias NAME@production`."
    return find_named(session, Alias, name, what="alias", remedy=remedy)


def standing_promotions(decisions: Iterable[Promotion]) -> tuple[list[Promotion], dict[str, datetime]]:
    """Return the promotions of an alias's decisions, oldest first, that rollbacks go back through, the present one last
    (promotions push, rollbacks pop), and when each other one was taken back, by its id.
    """
    standing: list[Promotion] = []
    taken_back: dict[str, datetime] = {}
    for row in decisions:
        if row.decision == PROMOTE:
            standing.append(row)
        elif row.decision == ROLLBACK and standing:
            taken_back[standing.pop().id] = row.created_at
    return standing, taken_back


def decisions_on(session: Session, alias_id: str) -> list[Promotion]:
    """Return every decision on an alias, oldest first."""
    rows = select(Promotion).where(Promotion.alias_id == alias_id)
    return list(session.scalars(rows.order_by(Promotion.created_at, Promotion.id)))


def following_endpoints(session: Session, alias: str) -> list[tuple[str, int, DeploymentConfig, str]]:
    """Return (endpoint, replicas, config, checkpoint id) of the running deployments that follow an alias; the newest of
    each endpoint.
    """
    rows = session.execute(
        select(Endpoint.name, Deployment.num_replicas, Deployment.config, Deployment.checkpoint_id)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        .order_by(Deployment.created_at, Deployment.revision)
    )
    newest = {row[0]: (row[0], row[1], row[2], row[3]) for row in rows}
    return [newest[name] for name in sorted(newest) if newest[name][2].alias == alias]


def alias_view(session: Session, alias: Alias) -> AliasView:
    """Copy an alias and what refers to it into a view that outlives the session."""
    decisions = decisions_on(session, alias.id)
    standing, taken_back = standing_promotions(decisions)
    rollback_id = standing[-2].checkpoint_id if len(standing) > 1 else None
    followers = {row[0]: row[3] for row in following_endpoints(session, alias.name)}
    return view_of(
        AliasView,
        alias,
        checkpoint=_checkpoint(session, alias.checkpoint_id),
        rollback_id=rollback_id,
        rollback=_checkpoint(session, rollback_id),
        endpoints=tuple(followers),
        apart={
            name: _checkpoint(session, served) or ""
            for name, served in followers.items()
            if served != alias.checkpoint_id
        },
        history=tuple(
            promotion_view(session, row, alias.name, rolled_back_at=taken_back.get(row.id))
            for row in reversed(decisions)
        ),
    )


def promotion_view(
    session: Session, row: Promotion, alias: str, *, rolled_back_at: datetime | None = None
) -> PromotionView:
    """Copy a decision and the names that it refers to."""
    campaign = session.get(Campaign, row.campaign_id) if row.campaign_id else None
    user = session.get(User, row.created_by) if row.created_by else None
    return view_of(
        PromotionView,
        row,
        alias=alias,
        checkpoint=_checkpoint(session, row.checkpoint_id) or "",
        previous=_checkpoint(session, row.previous_id),
        campaign=campaign.name if campaign else None,
        by=user.name if user else "this machine",
        rolled_back_at=rolled_back_at,
    )


def _checkpoint(session: Session, checkpoint_id: str | None) -> str | None:
    return session.scalar(select(Checkpoint.name).where(Checkpoint.id == checkpoint_id)) if checkpoint_id else None
