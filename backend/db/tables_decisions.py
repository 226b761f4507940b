"""Decisions on campaigns: excluded raters, frozen boards, aliases of checkpoints and their promotions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.battles.promotion import PromotionEvidence
from backend.domain.json_values import JsonObject


class RaterExclusion(Table):
    """A rater's exclusion from a campaign's board, or the end of one. Append-only: the newest row of a rater
    decides.
    """

    __tablename__ = "rater_exclusions"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"), index=True)
    excluded: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text, default="")
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class FrozenBoard(Table):
    """A named, unchangeable leaderboard. `digest` is the SHA-256 of `document`: votes, options, seed, code version and
    ratings.
    """

    __tablename__ = "frozen_boards"
    __table_args__ = (UniqueConstraint("campaign_id", "name"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    name: Mapped[str] = mapped_column(String(120))
    digest: Mapped[str] = mapped_column(String(64))
    document: Mapped[JsonObject] = mapped_column(default=dict)  # its digest holds for these bytes
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Alias(Table):
    """A name such as `storyteller@production` for the checkpoint that holds it now. `promotions` is its history."""

    __tablename__ = "aliases"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Promotion(Table):
    """A decision on an alias, append-only: promote, reject or rollback. `evidence` holds the verdict and gates that it
    rests on.
    """

    __tablename__ = "promotions"
    __table_args__ = (Index("ix_promotions_alias_id_created_at", "alias_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    alias_id: Mapped[str] = mapped_column(ForeignKey("aliases.id"))
    decision: Mapped[str] = mapped_column(String(10))
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    previous_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    evidence: Mapped[PromotionEvidence] = mapped_column(default=PromotionEvidence)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
