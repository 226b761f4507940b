"""Evaluations and blind human votes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Float, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now


class Evaluation(Table):
    """One benchmark on one checkpoint. `metric` family: `perplexity`, `multiple_choice` or `generation`."""

    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    dataset_version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    fingerprint: Mapped[str] = mapped_column(String(64), default="", index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Score(Table):
    """A metric of an evaluation with standard error and interval."""

    __tablename__ = "scores"
    __table_args__ = (UniqueConstraint("evaluation_id", "metric"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    metric: Mapped[str] = mapped_column(String(40))
    value: Mapped[float] = mapped_column(Float)
    stderr: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    n: Mapped[int]
    method: Mapped[str] = mapped_column(String(60), default="")


class EvaluationItem(Table):
    """The result of one item. `item_hash` joins paired comparisons."""

    __tablename__ = "evaluation_items"
    __table_args__ = (UniqueConstraint("evaluation_id", "item_hash"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), index=True)
    item_hash: Mapped[str] = mapped_column(String(64))
    position: Mapped[int]
    values: Mapped[dict[str, Any]]
    shown: Mapped[dict[str, Any]] = mapped_column(default=dict)


class EvaluationTask(Table):
    """A task that the team saved, as its YAML `text`. An evaluation holds a copy of its own, so changes here change no score."""

    __tablename__ = "evaluation_tasks"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    text: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Campaign(Table):
    """A set of prompts, contestants, raters and a stopping rule.

    A rematch refers to the campaign whose votes it trains on (`parent_id`) and the run that trains its new contestant (`run_id`).
    """

    __tablename__ = "campaigns"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    closed_at: Mapped[datetime | None]


class Contestant(Table):
    """A checkpoint entered in a campaign."""

    __tablename__ = "contestants"
    __table_args__ = (UniqueConstraint("campaign_id", "checkpoint_id"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CampaignPrompt(Table):
    """One prompt of a campaign, as messages. Equal prompts of two campaigns have the same `content_hash`."""

    __tablename__ = "campaign_prompts"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    position: Mapped[int]
    messages: Mapped[list[Any]]
    content_hash: Mapped[str] = mapped_column(String(64), default="")


class Completion(Table):
    """A contestant's answer to a prompt. Answers that differ only in outer whitespace share a `text_hash` and never meet in a battle."""

    __tablename__ = "completions"
    __table_args__ = (UniqueConstraint("prompt_id", "contestant_id"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("campaign_prompts.id"), index=True)
    contestant_id: Mapped[str] = mapped_column(ForeignKey("contestants.id"), index=True)
    text: Mapped[str] = mapped_column(Text)
    text_hash: Mapped[str] = mapped_column(String(64))
    tokens: Mapped[int] = mapped_column(default=0)
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Rater(Table):
    """A voter: a signed-in user, the person on loopback, or the holder of a link (only the hash of its secret is kept).

    `created_by` is the account that made the link.
    """

    __tablename__ = "raters"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), unique=True)
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    link_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Battle(Table):
    """One prompt, two completions, sides shuffled. `completion_a_id` was shown as side a.

    `pair` is the two contestants' ids in alphabetical order: a rater meets a prompt with a pair once. A vote after `expires_at` is
    refused; serving the battle again renews it.
    """

    __tablename__ = "battles"
    __table_args__ = (Index("ix_battles_campaign_rater", "campaign_id", "rater_id"), UniqueConstraint("rater_id", "prompt_id", "pair"))
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    prompt_id: Mapped[str] = mapped_column(ForeignKey("campaign_prompts.id"))
    completion_a_id: Mapped[str] = mapped_column(ForeignKey("completions.id"))
    completion_b_id: Mapped[str] = mapped_column(ForeignKey("completions.id"))
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"))
    pair: Mapped[str] = mapped_column(String(25))
    sampling_probability: Mapped[float] = mapped_column(Float)
    served_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime]


class Vote(Table):
    """An append-only verdict on a battle. A correction is a new row that refers to the one it supersedes; undo is label UNDONE. `revision`
    counts a battle's rows from 1; the highest one is valid. It is unique, so a double submission is one vote.
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
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
