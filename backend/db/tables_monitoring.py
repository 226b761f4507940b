"""Rollups of traffic and gauges, alerts, request logs, feedback and load tests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Float, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.jobs.gauges import AlertMessage
from backend.domain.jobs.load_test import LoadOutcome
from backend.domain.json_values import JsonObject
from backend.domain.serving.load import LoadConfig
from backend.domain.serving.request_log import RequestLogConfig

OPEN = "resolved_at IS NULL"


class TrafficRollup(Table):
    """Requests of an endpoint in one interval of 60, 600 or 3,600 seconds. `ttft`, `itl`, `total` and `queue` are
    counts by bucket of a latency."""

    __tablename__ = "traffic_rollups"
    __table_args__ = (UniqueConstraint("width_s", "start", "endpoint_id", "variant"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    width_s: Mapped[int]
    start: Mapped[datetime]
    endpoint_id: Mapped[str] = mapped_column(String(12), default="")
    variant: Mapped[str] = mapped_column(String(40), default="")
    requests: Mapped[int] = mapped_column(default=0)
    lost: Mapped[int] = mapped_column(default=0)
    refused: Mapped[int] = mapped_column(default=0)
    aborted: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    cached_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    device_s: Mapped[float] = mapped_column(Float, default=0.0)
    cost_usd: Mapped[float] = mapped_column(Float, default=0.0)
    ttft: Mapped[dict[int, int]] = mapped_column(default=dict)
    itl: Mapped[dict[int, int]] = mapped_column(default=dict)
    total: Mapped[dict[int, int]] = mapped_column(default=dict)
    queue: Mapped[dict[int, int]] = mapped_column(default=dict, server_default="{}")


class GaugeRollup(Table):
    """Readings of a gauge in one interval. `subject` is `host:NAME` or `endpoint:ID`."""

    __tablename__ = "gauge_rollups"
    __table_args__ = (UniqueConstraint("width_s", "start", "subject", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    width_s: Mapped[int]
    start: Mapped[datetime]
    subject: Mapped[str] = mapped_column(String(120))
    name: Mapped[str] = mapped_column(String(40))
    readings: Mapped[int] = mapped_column(default=0)
    sum: Mapped[float] = mapped_column(Float, default=0.0)
    maximum: Mapped[float] = mapped_column(Float, default=0.0)


class DeviceUse(Table):
    """Devices that one attempt of a job held, with the price of the hour when it began. Open while `ended_at` is
    empty.
    """

    __tablename__ = "device_uses"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt: Mapped[int] = mapped_column(default=1)
    kind: Mapped[str] = mapped_column(String(4))
    device_name: Mapped[str] = mapped_column(String(120), default="")
    num_devices: Mapped[int] = mapped_column(default=1)
    hour_usd: Mapped[float | None] = mapped_column(Float)
    started_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]


class DevicePrice(Table):
    """A price of a device-hour that an admin set on the Costs page, before those of the environment. `name` is part
    of a device's name, `gpu` or `cpu`; empty for every other device.
    """

    __tablename__ = "device_prices"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    hour_usd: Mapped[float] = mapped_column(Float)
    set_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    set_at: Mapped[datetime] = mapped_column(default=utc_now)


class Alert(Table):
    """A condition that was met. Open while `resolved_at` is empty; one open alert per fingerprint."""

    __tablename__ = "alerts"
    __table_args__ = (
        Index("ix_alerts_fingerprint_resolved_at", "fingerprint", "resolved_at"),
        Index("ux_alerts_open", "fingerprint", unique=True, sqlite_where=text(OPEN), postgresql_where=text(OPEN)),
    )
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    fingerprint: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(30))
    severity: Mapped[str] = mapped_column(String(10))
    message: Mapped[str] = mapped_column(Text)
    opened_at: Mapped[datetime] = mapped_column(default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    resolved_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    problem: Mapped[str] = mapped_column(Text, default="")


class AlertDelivery(Table):
    """A message of an alert to one channel (webhook or e-mail). It is tried until it is sent or given up; `next_at` is
    empty then.
    """

    __tablename__ = "alert_deliveries"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    alert_id: Mapped[str] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), index=True)
    channel: Mapped[str] = mapped_column(String(10))
    message: Mapped[AlertMessage]
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    next_at: Mapped[datetime | None] = mapped_column(index=True)
    sent_at: Mapped[datetime | None]
    problem: Mapped[str] = mapped_column(Text, default="")


class RequestLogPolicy(Table):
    """Settings of an endpoint's request log."""

    __tablename__ = "request_log_policies"
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"), primary_key=True)
    config: Mapped[RequestLogConfig] = mapped_column(default=RequestLogConfig)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class LoggedRequest(Table):
    """A request that its endpoint logs: metadata, and bodies after redaction where the policy keeps them."""

    __tablename__ = "request_logs"
    __table_args__ = (Index("ix_request_logs_endpoint_id_created_at", "endpoint_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"))
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(String(12))
    kind: Mapped[str] = mapped_column(String(12))
    params: Mapped[JsonObject] = mapped_column(default=dict)  # as a client sent them
    messages: Mapped[list[Any] | None]
    answer: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20))
    redactions: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Feedback(Table):
    """A thumb, a correction or a comment on an answer. `rating` is 1, -1 or empty. `request_id` names the request or,
    where `source` is playground, the message; such a row holds a copy of prompt and answer, so that it outlives the
    conversation.
    """

    __tablename__ = "feedback"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    request_id: Mapped[str] = mapped_column(String(40), index=True)
    rating: Mapped[int | None]
    correction: Mapped[str] = mapped_column(Text, default="")
    comment: Mapped[str] = mapped_column(Text, default="")
    source: Mapped[str] = mapped_column(String(12), default="api")
    endpoint: Mapped[str | None] = mapped_column(String(80))
    checkpoint_id: Mapped[str | None] = mapped_column(String(12))
    messages: Mapped[list[Any] | None]
    answer: Mapped[str | None] = mapped_column(Text)
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LoadTest(Table):
    """A load test of a deployment, with its config and result."""

    __tablename__ = "load_tests"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"), index=True)
    deployment_id: Mapped[str] = mapped_column(String(12))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    config: Mapped[LoadConfig] = mapped_column(default=LoadConfig)
    result: Mapped[LoadOutcome] = mapped_column(default=LoadOutcome)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
