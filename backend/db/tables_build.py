"""Datasets, tokenizers, architectures, checkpoints and their analyses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from backend.db.base import Table, new_id, utc_now
from backend.db.documents import Document
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.rows.problem import RejectedRow
from backend.domain.data.versions.provenance import AnyProvenance, Provenance
from backend.domain.jobs.events import Values
from backend.domain.jobs.results import CheckpointFacts, TokenizerFacts, VersionFacts


class Dataset(Table):
    """A named collection of immutable versions."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    notes: Mapped[str] = mapped_column(Text, default="")
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]
    versions: Mapped[list[DatasetVersion]] = relationship(back_populates="dataset", order_by="DatasetVersion.number")


class DatasetVersion(Table):
    """Immutable rows: one folder of Parquet files named by their content hash. Created when an import is queued;
    `content_hash` and counts are filled in when its job finishes.
    """

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    number: Mapped[int]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    parent_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id"), index=True
    )  # provenance holds the change
    content_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    folder: Mapped[str | None] = mapped_column(String(300))
    source: Mapped[str] = mapped_column(String(400), default="")
    mapping: Mapped[dict[str, str]] = mapped_column(default=dict)
    rows: Mapped[int] = mapped_column(default=0)
    train_rows: Mapped[int] = mapped_column(default=0)
    val_rows: Mapped[int] = mapped_column(default=0)
    rejected_rows: Mapped[int] = mapped_column(default=0)
    rejected: Mapped[list[RejectedRow]] = mapped_column(default=list)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    facts: Mapped[VersionFacts] = mapped_column(default=VersionFacts)
    provenance: Mapped[AnyProvenance] = mapped_column(Document(AnyProvenance, ignores=False), default=Provenance)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    dataset: Mapped[Dataset] = relationship(back_populates="versions")


class Tokenizer(Table):
    """A tokenizer in a folder that any Hugging Face tool loads."""

    __tablename__ = "tokenizers"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    vocab_size: Mapped[int | None]
    folder: Mapped[str | None] = mapped_column(String(300))
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    facts: Mapped[TokenizerFacts] = mapped_column(default=TokenizerFacts)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Architecture(Table):
    """A stored ArchitectureConfig."""

    __tablename__ = "architectures"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[ArchitectureConfig]
    parameters: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]


class Checkpoint(Table):
    """Weights in a folder. `origin`: `run` (written by training), `added` (an imported base) or `upstream`: a model on
    another server, which has no folder; its `facts` hold the config of backend.domain.serving.upstream.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(160), unique=True)
    origin: Mapped[str] = mapped_column(String(10))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    step: Mapped[int | None]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    folder: Mapped[str | None] = mapped_column(String(300))
    source: Mapped[str] = mapped_column(String(400), default="")
    family: Mapped[str] = mapped_column(String(40), default="")
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    is_adapter: Mapped[bool] = mapped_column(default=False)
    is_final: Mapped[bool] = mapped_column(default=False)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    metrics: Mapped[Values] = mapped_column(default=dict)
    facts: Mapped[CheckpointFacts] = mapped_column(default=CheckpointFacts)
    notes: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Analysis(Table):
    """A stored analysis of a dataset, tokenizer or checkpoint. `kind` is the job's; `config` holds the request."""

    __tablename__ = "analyses"
    __table_args__ = (Index("ix_analyses_kind_created_at", "kind", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(30))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    tokenizer_id: Mapped[str | None] = mapped_column(ForeignKey("tokenizers.id"), index=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    other_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of its kind
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of its kind
    folder: Mapped[str | None] = mapped_column(String(300))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
