"""Gates on checkpoints, their verdicts, and the endpoints that require one."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.evaluation.gate_config import GateConfig, GateReport


class Gate(Table):
    """A named gate. `config` is a GateConfig; it never changes, so that verdicts stay comparable."""

    __tablename__ = "gates"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[GateConfig]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class GateResult(Table):
    """A verdict of a gate on a checkpoint or an endpoint, append-only. `report` holds the decision and the evaluations
    that it rests on.
    """

    __tablename__ = "gate_results"
    __table_args__ = (Index("ix_gate_results_gate_id_created_at", "gate_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    gate_id: Mapped[str] = mapped_column(ForeignKey("gates.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    champion_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    champion_endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    verdict: Mapped[str] = mapped_column(String(12))
    report: Mapped[GateReport] = mapped_column(default=GateReport)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class RequiredGate(Table):
    """An endpoint's name that only checkpoints which pass the gate may be deployed to; the endpoint need not exist
    yet.
    """

    __tablename__ = "required_gates"
    __table_args__ = (UniqueConstraint("endpoint", "gate_id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    endpoint: Mapped[str] = mapped_column(String(80))
    gate_id: Mapped[str] = mapped_column(ForeignKey("gates.id"), index=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
