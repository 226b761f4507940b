"""Campaigns of blind votes: contestants, prompts, completions, raters, battles, votes; and what is decided by them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Float, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.battles.campaign import CampaignConfig, CampaignRecord, Messages


class Campaign(Table):
    """A set of prompts, contestants, raters and a stopping rule.

    A rematch refers to the campaign whose votes it trains on (`parent_id`) and the run that trains its new contestant
    (`run_id`).
    """

    __tablename__ = "campaigns"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    record: Mapped[CampaignRecord] = mapped_column("config", default=CampaignRecord)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    closed_at: Mapped[datetime | None]

    @property
    def config(self) -> CampaignConfig:
        """Prompts, sampling, pairing, ballot and stopping rule."""
        return self.record.config


class Contestant(Table):
    """An author of completions in a campaign: a checkpoint, an endpoint or an imported file; `kind` says which.

    Gold pairs are written by two contestants of the kinds `gold_better` and `gold_worse`, which no board shows.
    `source` of an endpoint holds its address and model, of a file its name and hash; `label` is its name.
    """

    __tablename__ = "contestants"
    __table_args__ = (UniqueConstraint("campaign_id", "checkpoint_id"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    kind: Mapped[str] = mapped_column(String(12), default="checkpoint", server_default="checkpoint")
    label: Mapped[str] = mapped_column(String(120), default="", server_default="")
    source: Mapped[dict[str, str | None]] = mapped_column(default=dict, server_default="{}")
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CampaignPrompt(Table):
    """One prompt of a campaign, as messages. Equal prompts have the same `content_hash`, and so have the turns of an
    imported one, which `turn` tells apart. Prompts of `purpose` gold belong to gold pairs.
    """

    __tablename__ = "campaign_prompts"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    position: Mapped[int]
    messages: Mapped[Messages]
    content_hash: Mapped[str] = mapped_column(String(64), default="")
    turn: Mapped[str] = mapped_column(String(20), default="", server_default="")
    category: Mapped[str] = mapped_column(String(80), default="", server_default="")
    purpose: Mapped[str] = mapped_column(String(8), default="vote", server_default="vote")


class Completion(Table):
    """A contestant's answer to a prompt, one of several numbered by `sample`. Answers that differ only in outer
    whitespace share a `text_hash`.
    """

    __tablename__ = "completions"
    __table_args__ = (UniqueConstraint("prompt_id", "contestant_id", "sample"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("campaign_prompts.id"), index=True)
    contestant_id: Mapped[str] = mapped_column(ForeignKey("contestants.id"), index=True)
    sample: Mapped[int] = mapped_column(default=0, server_default="0")
    text: Mapped[str] = mapped_column(Text)
    text_hash: Mapped[str] = mapped_column(String(64))
    tokens: Mapped[int] = mapped_column(default=0)
    facts: Mapped[dict[str, str | None]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Rater(Table):
    """A voter: a signed-in user, the person on loopback, or the holder of a link (only the hash of its secret is kept).

    `created_by` is the account that made the link. The first browser that opens a single-use link leaves the hash of
    its cookie in `browser_hash`; no other browser may use the link.
    """

    __tablename__ = "raters"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), unique=True)
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    link_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    single_use: Mapped[bool] = mapped_column(default=False, server_default=false())
    browser_hash: Mapped[str | None] = mapped_column(String(64))
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Battle(Table):
    """One prompt, two completions, sides shuffled. `completion_a_id` was shown as side a.

    `pair` is the two contestants' ids in alphabetical order: a rater meets a prompt with a pair once for each
    `purpose`: vote, repeat (`repeat_of_id` with sides swapped), gold, or identical (equal answers, tied without being
    shown). A vote after `expires_at` is refused; serving the battle again renews it.
    """

    __tablename__ = "battles"
    __table_args__ = (
        Index("ix_battles_campaign_rater", "campaign_id", "rater_id"),
        Index("ix_battles_campaign_id_served_at", "campaign_id", "served_at"),
        UniqueConstraint("rater_id", "prompt_id", "pair", "purpose"),
    )
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    prompt_id: Mapped[str] = mapped_column(ForeignKey("campaign_prompts.id"))
    completion_a_id: Mapped[str] = mapped_column(ForeignKey("completions.id"))
    completion_b_id: Mapped[str] = mapped_column(ForeignKey("completions.id"))
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"))
    pair: Mapped[str] = mapped_column(String(25))
    purpose: Mapped[str] = mapped_column(String(10), default="vote", server_default="vote")
    repeat_of_id: Mapped[str | None] = mapped_column(ForeignKey("battles.id"))
    sampling_probability: Mapped[float] = mapped_column(Float)
    served_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime]


class Vote(Table):
    """An append-only verdict on a battle. A correction is a new row that refers to the one it supersedes; undo is label
    UNDONE, a skipped battle label SKIPPED. `revision` counts a battle's rows from 1; the highest one is valid. It is
    unique, so a double submission is one vote. `dimensions` maps a rubric's dimension to a label; `rewrite` is the
    rater's better answer; `flag` says what is wrong with the battle.
    """

    __tablename__ = "votes"
    __table_args__ = (UniqueConstraint("battle_id", "revision"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    battle_id: Mapped[str] = mapped_column(ForeignKey("battles.id"), index=True)
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"), index=True)
    revision: Mapped[int]
    label: Mapped[str] = mapped_column(String(10))
    supersedes_id: Mapped[str | None] = mapped_column(ForeignKey("votes.id"), unique=True)
    duration_ms: Mapped[int | None]
    note: Mapped[str] = mapped_column(Text, default="")
    reasons: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    dimensions: Mapped[dict[str, str]] = mapped_column(default=dict, server_default="{}")
    rewrite: Mapped[str | None] = mapped_column(Text)
    flag: Mapped[str] = mapped_column(String(200), default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)


class AnswerRating(Table):
    """A rating of a single completion, 1 to 5 (thumbs down is 1, up is 5). Append-only: the highest `revision` is
    valid.
    """

    __tablename__ = "answer_ratings"
    __table_args__ = (UniqueConstraint("completion_id", "rater_id", "revision"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    completion_id: Mapped[str] = mapped_column(ForeignKey("completions.id"))
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"), index=True)
    revision: Mapped[int]
    value: Mapped[int]
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
