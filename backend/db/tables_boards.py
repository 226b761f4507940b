"""Suites of benchmarks, scores packed for boards, and results imported from other harnesses."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.evaluation.exchange import StatedScore
from backend.domain.evaluation.suites import MemberOutcome, SuiteConfig
from backend.domain.json_values import JsonObject


class Suite(Table):
    """A named list of benchmarks with their settings. `config` is a SuiteConfig; a change makes no difference to
    results that exist.
    """

    __tablename__ = "suites"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[SuiteConfig]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]


class SuiteResult(Table):
    """A suite on a checkpoint or an endpoint. `config` is the suite's as it was; `members` holds an evaluation's id, or
    why there is none, for each.

    `launched_at` is set once every member has its evaluation or its error; until then workers launch what is missing.
    """

    __tablename__ = "suite_results"
    __table_args__ = (Index("ix_suite_results_suite_id_created_at", "suite_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    suite_id: Mapped[str] = mapped_column(ForeignKey("suites.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    config: Mapped[SuiteConfig]
    members: Mapped[list[MemberOutcome]] = mapped_column(default=list)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    launched_at: Mapped[datetime | None] = mapped_column(index=True)


class RunSuite(Table):
    """A suite chosen when a run was launched. `moment`: `end` of the run, or each `checkpoint` as it appears."""

    __tablename__ = "run_suites"
    __table_args__ = (UniqueConstraint("run_id", "suite_id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    suite_id: Mapped[str] = mapped_column(ForeignKey("suites.id"), index=True)
    moment: Mapped[str] = mapped_column(String(10))


class PackedItems(Table):
    """The values of all items of a finished evaluation in one row, so that boards need not read the items.

    `data` is compressed: 8 bytes of each item's hash, then one double for each item and metric, items in order of their
    hash.
    """

    __tablename__ = "packed_items"
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    metrics: Mapped[list[str]] = mapped_column(default=list)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class ImportedEvaluation(Table):
    """Scores that another program measured, read from its file; shown beside ours and never tested against them.

    `config` is what the file says about the settings, in its own words.
    """

    __tablename__ = "imported_evaluations"
    __table_args__ = (UniqueConstraint("content_hash", "benchmark"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    content_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(300))
    harness: Mapped[str] = mapped_column(String(80), default="")
    model: Mapped[str] = mapped_column(String(200))
    benchmark: Mapped[str] = mapped_column(String(160))
    scores: Mapped[list[StatedScore]] = mapped_column(default=list)
    config: Mapped[JsonObject] = mapped_column(default=dict)  # words of another program
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
