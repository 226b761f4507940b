"""Evaluations, their scores and items, and tasks of the team."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Float, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.jobs.results import EvaluationRecord
from backend.domain.openai_servers import Capabilities


class EvaluatedEndpoint(Table):
    """An endpoint that evaluations score: one of this installation (`url` is empty), or a model behind an
    OpenAI-compatible API.

    `config` is an EndpointConfig, which names the place of a key and never holds one; `capabilities` say what the API
    offers.
    """

    __tablename__ = "evaluated_endpoints"
    __table_args__ = (UniqueConstraint("name", "url", "model"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    url: Mapped[str] = mapped_column(String(300), default="")
    model: Mapped[str] = mapped_column(String(200))
    config: Mapped[EndpointConfig]
    capabilities: Mapped[Capabilities] = mapped_column(default=dict)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]


class Evaluation(Table):
    """One benchmark on one checkpoint or endpoint. `metric` family: `perplexity`, `multiple_choice` or `generation`."""

    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    dataset_version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    record: Mapped[EvaluationRecord] = mapped_column("config", default=EvaluationRecord)
    fingerprint: Mapped[str] = mapped_column(String(64), default="", index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    @property
    def config(self) -> EvaluationConfig:
        """The options of its launch."""
        return self.record.config


class Score(Table):
    """A metric of an evaluation, over all items or over those of one subgroup, with standard error and interval."""

    __tablename__ = "scores"
    __table_args__ = (UniqueConstraint("evaluation_id", "metric", "subgroup"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    metric: Mapped[str] = mapped_column(String(120))
    subgroup: Mapped[str] = mapped_column(String(400), default="")
    value: Mapped[float] = mapped_column(Float)
    stderr: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    n: Mapped[int]
    method: Mapped[str] = mapped_column(String(200), default="")


class EvaluationItem(Table):
    """The result of one item. `item_hash` joins paired comparisons."""

    __tablename__ = "evaluation_items"
    __table_args__ = (UniqueConstraint("evaluation_id", "item_hash"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), index=True)
    item_hash: Mapped[str] = mapped_column(String(64))
    position: Mapped[int]
    values: Mapped[dict[str, float]]
    shown: Mapped[dict[str, Any]] = mapped_column(default=dict)  # open, for display


class JudgedItem(Table):
    """A judge's verdict on one item of a judgement, with the texts that it judged. Append-only; `record` is open JSON
    for display.

    `evaluation_id` is that of the answer, if it is an evaluation's.
    """

    __tablename__ = "judged_items"
    __table_args__ = (UniqueConstraint("job_id", "item"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    evaluation_id: Mapped[str | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    position: Mapped[int]
    item: Mapped[str] = mapped_column(String(200))
    verdict: Mapped[str | None] = mapped_column(String(80))
    record: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class EvaluationTask(Table):
    """A task that the team saved, as its YAML `text`. An evaluation holds a copy of its own, so changes here change no
    score.
    """

    __tablename__ = "evaluation_tasks"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    text: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
