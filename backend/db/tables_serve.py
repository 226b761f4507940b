"""Endpoints, deployments, replicas, usage and conversations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Float, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.evaluation.prompts import PromptText
from backend.domain.jobs.gauges import ReplicaReport
from backend.domain.json_values import JsonObject
from backend.domain.serving.answers import AnswerToken, AnswerUsage
from backend.domain.serving.chat_settings import AnswerSettings, TurnSettings
from backend.domain.serving.deployment import DeploymentConfig, DeploymentTraffic
from backend.domain.serving.prompt_matrix import MatrixAnswers


class Endpoint(Table):
    """The public name that clients put in `model=`."""

    __tablename__ = "endpoints"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Deployment(Table):
    """A revision of an endpoint: a checkpoint, a number of replicas and options. `role` is stable, canary for one that
    gets a share of the traffic, or shadow for one that gets copies. A new stable one replaces the previous one replica
    by replica; history is kept. `restores` is the revision that a rollback went back to; `traffic` holds share, rules
    and outcome of a canary or shadow, and what autoscaling did.
    """

    __tablename__ = "deployments"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"), index=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    num_replicas: Mapped[int] = mapped_column(default=1)
    config: Mapped[DeploymentConfig] = mapped_column(default=DeploymentConfig)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    stopped_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(default=1)
    restores: Mapped[int | None]
    role: Mapped[str] = mapped_column(String(10), default="stable")
    traffic: Mapped[DeploymentTraffic] = mapped_column(default=DeploymentTraffic)


class Replica(Table):
    """One process holding weights: starting, ready, draining, dead. Its job carries lease and restarts. A model on
    another server has a row without a job; `gauges` holds the outcome of its last health check.
    """

    __tablename__ = "replicas"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    status: Mapped[str] = mapped_column(String(12), default="starting")
    url: Mapped[str | None] = mapped_column(String(300))
    internal_token: Mapped[str] = mapped_column(String(64))
    gauges: Mapped[ReplicaReport] = mapped_column(default=ReplicaReport)
    ready_at: Mapped[datetime | None]


class ReplicaFailure(Table):
    """A request that a replica lost: unreachable, broken off or failed, whether or not another replica then answered
    it.
    """

    __tablename__ = "replica_failures"
    __table_args__ = (Index("ix_replica_failures_replica_time", "replica_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    replica_id: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ShadowComparison(Table):
    """A request and its copy at a shadow (a deployment of this role): how their answers compare. Holds no text."""

    __tablename__ = "shadow_comparisons"
    __table_args__ = (Index("ix_shadow_comparisons_deployment_time", "deployment_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"))
    is_equal: Mapped[bool | None]
    primary_tokens: Mapped[int] = mapped_column(default=0)
    shadow_tokens: Mapped[int] = mapped_column(default=0)
    primary_ttft_ms: Mapped[float | None] = mapped_column(Float)
    shadow_ttft_ms: Mapped[float | None] = mapped_column(Float)
    primary_total_ms: Mapped[float] = mapped_column(Float)
    shadow_total_ms: Mapped[float] = mapped_column(Float)
    error: Mapped[str] = mapped_column(String(40), default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Usage(Table):
    """One request through the gateway, or several `requests` of a client that was refused in a loop. `device_s` is its
    share of the replicas' busy time, `cost_usd` that time at the price of the day. `job_id` is the job that says it
    made the request, not checked here. `asked_model` is the name that a client asked for where no endpoint has it.
    """

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_endpoint_time", "endpoint_id", "created_at"),
        Index("ix_usage_key_id_created_at", "key_id", "created_at"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("endpoints.id"))
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    replica_id: Mapped[str | None] = mapped_column(String(12))
    checkpoint_id: Mapped[str | None] = mapped_column(String(12))
    variant: Mapped[str] = mapped_column(String(40), default="")
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    cached_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    ttft_ms: Mapped[float | None] = mapped_column(Float)
    total_ms: Mapped[float | None] = mapped_column(Float)
    itl_ms: Mapped[float | None] = mapped_column(Float)
    queue_ms: Mapped[float | None] = mapped_column(Float)
    job_id: Mapped[str | None] = mapped_column(String(12))
    device_s: Mapped[float | None] = mapped_column(Float)
    cost_usd: Mapped[float | None] = mapped_column(Float)
    finish_reason: Mapped[str | None] = mapped_column(String(40))
    asked_model: Mapped[str | None] = mapped_column(String(80))
    status: Mapped[str] = mapped_column(String(20))
    requests: Mapped[int] = mapped_column(default=1, server_default="1")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class StoredResponse(Table):
    """A response of `/v1/responses` that a later one may follow: the items of its turn's input, and the response
    itself. `owner` is `user:ID`, or `key:ID` for a key without an account; empty for requests without a key.
    """

    __tablename__ = "stored_responses"
    __table_args__ = (Index("ix_stored_responses_owner_time", "owner", "created_at"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(20))
    endpoint: Mapped[str] = mapped_column(String(200))
    previous_id: Mapped[str | None] = mapped_column(String(60))
    items: Mapped[list[Any]] = mapped_column(default=list)  # in OpenAI's form
    document: Mapped[JsonObject] = mapped_column(default=dict)  # in OpenAI's form
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Conversation(Table):
    """A stored chat. Belongs to a user; on a loopback installation, to none."""

    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    title: Mapped[str] = mapped_column(String(160), default="")
    endpoint: Mapped[str] = mapped_column(String(80))
    other_endpoint: Mapped[str | None] = mapped_column(String(80))
    system_prompt: Mapped[str] = mapped_column(Text, default="")
    sampling: Mapped[TurnSettings] = mapped_column(default=TurnSettings)
    leaf_id: Mapped[str | None] = mapped_column(String(12))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Message(Table):
    """One turn, a node of the conversation's tree: it answers `parent_id`. Children of a message are numbered in rounds
    (`round`: an edited question or a regenerated answer begins one); `branch` is the column of an answer among those
    side by side.

    `status`: done, running, stopping (a stop was requested), stopped, failed. While an answer is generated its row is
    updated, the time in `updated_at`. `tokens` holds the probabilities of an answer's tokens where they were requested.
    """

    __tablename__ = "messages"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(String(12))
    position: Mapped[int]
    round: Mapped[int] = mapped_column(default=0, server_default="0")
    branch: Mapped[int] = mapped_column(default=0)
    role: Mapped[str] = mapped_column(String(12))
    content: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(10), default="done", server_default="done")
    endpoint: Mapped[str | None] = mapped_column(String(80))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    usage: Mapped[AnswerUsage] = mapped_column(default=AnswerUsage)
    tokens: Mapped[list[AnswerToken] | None]
    vote: Mapped[str | None] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime | None]


class ConversationShare(Table):
    """A link that shows a conversation, up to the message that was its last, to every account. Its secret is signed,
    not stored.
    """

    __tablename__ = "conversation_shares"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), index=True)
    leaf_id: Mapped[str] = mapped_column(String(12))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    revoked_at: Mapped[datetime | None]


class Preset(Table):
    """Named settings of the playground. A shared one is offered to every account; only its owner changes it."""

    __tablename__ = "presets"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    is_shared: Mapped[bool] = mapped_column(default=False)
    settings: Mapped[AnswerSettings] = mapped_column(default=AnswerSettings)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Prompt(Table):
    """A prompt of the team by its name. What it says is in its versions."""

    __tablename__ = "prompts"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PromptVersion(Table):
    """One version of a prompt, never changed after its author saved it. `note` says what is new."""

    __tablename__ = "prompt_versions"
    __table_args__ = (UniqueConstraint("prompt_id", "number"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"))
    number: Mapped[int]
    body: Mapped[PromptText]
    note: Mapped[str] = mapped_column(String(200), default="")
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PromptMatrix(Table):
    """A version of a prompt tried on rows and endpoints. `source` says where the rows are from. `status`: running,
    stopping (a stop was requested), done, stopped, failed. While answers are generated its row is updated every second,
    the time in `updated_at`.
    """

    __tablename__ = "prompt_matrices"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    version_id: Mapped[str] = mapped_column(ForeignKey("prompt_versions.id"), index=True)
    source: Mapped[str] = mapped_column(String(200), default="")
    settings: Mapped[AnswerSettings] = mapped_column(default=AnswerSettings)
    answers: Mapped[MatrixAnswers] = mapped_column(default=MatrixAnswers)
    status: Mapped[str] = mapped_column(String(10), default="running")
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
