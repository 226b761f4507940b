"""Every table, by room. The only ORM classes; docs/schema.md is generated from them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from backend.db.base import Authored, Document, Record, Table, new_id, utc_now
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.battles.campaign import CampaignConfig, CampaignRecord, Messages
from backend.domain.battles.promotion import PromotionEvidence
from backend.domain.data.rows.problem import RejectedRow
from backend.domain.data.versions.provenance import AnyProvenance, Provenance
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.evaluation.exchange import StatedScore
from backend.domain.evaluation.gate_config import GateConfig, GateReport
from backend.domain.evaluation.prompts import PromptText
from backend.domain.evaluation.suites import MemberOutcome, SuiteConfig
from backend.domain.jobs.events import ProgressEvent, Values
from backend.domain.jobs.gauges import AlertMessage, MachineGauges, ReplicaReport
from backend.domain.jobs.gpu_hours import PersonLimits
from backend.domain.jobs.load_test import LoadOutcome
from backend.domain.jobs.placement import Partition, SubmissionState
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import (
    CheckpointFacts,
    EvaluationRecord,
    MeasurementFacts,
    TokenizerFacts,
    VersionFacts,
)
from backend.domain.json_values import JsonObject
from backend.domain.openai_servers import Capabilities
from backend.domain.serving.chat import AnswerSettings, AnswerToken, AnswerUsage, TurnSettings
from backend.domain.serving.deployment import DeploymentConfig, DeploymentTraffic
from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.domain.serving.load import LoadConfig
from backend.domain.serving.prompt_matrix import MatrixAnswers
from backend.domain.serving.request_log import RequestLogConfig
from backend.domain.training.config import RunConfig
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.training.summary import RunSummary
from backend.domain.training.sweep_marks import SweepMarks
from backend.errors import Conflict

# Accounts, keys, saved views and dismissed steps.


class User(Record):
    """An account. Raising `session_epoch` ends every issued cookie. `name_key` is the name as `names.name_key` writes
    it, empty for one that was alike to an older account's before such names were refused.
    """

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(String(80), unique=True)
    name_key: Mapped[str | None] = mapped_column(Text, unique=True)
    role: Mapped[str] = mapped_column(String(20), default="engineer")
    password_hash: Mapped[str] = mapped_column(String(200))
    session_epoch: Mapped[int] = mapped_column(default=0)
    disabled_at: Mapped[datetime | None]
    limits: Mapped[PersonLimits] = mapped_column(default=PersonLimits)


class ApiKey(Record):
    """A key for /v1. Only its SHA-256 is stored; `hint` is its last four characters."""

    __tablename__ = "api_keys"
    name: Mapped[str] = mapped_column(String(80))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(8))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    scopes: Mapped[KeyScopes] = mapped_column(default=KeyScopes)
    limits: Mapped[KeyLimits] = mapped_column(default=KeyLimits)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SavedView(Record):
    """A person's named way of looking at a page: the query of its address. Without sign-in it has no `user_id`."""

    __tablename__ = "saved_views"
    page: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(80))
    query: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)


class DismissedStep(Record):
    """A next step that a person has dismissed. `key` says what it is about. Without sign-in it has no `user_id`."""

    __tablename__ = "dismissed_steps"
    key: Mapped[str] = mapped_column(String(400))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)


# Datasets, tokenizers, architectures, checkpoints and their analyses.


class Dataset(Authored):
    """A named collection of immutable versions."""

    __tablename__ = "datasets"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    notes: Mapped[str] = mapped_column(Text, default="")
    archived_at: Mapped[datetime | None]
    versions: Mapped[list[DatasetVersion]] = relationship(back_populates="dataset", order_by="DatasetVersion.number")


class DatasetVersion(Record):
    """Immutable rows: one folder of Parquet files named by their content hash. Created when an import is queued;
    `content_hash` and counts are filled in when its job finishes.
    """

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    number: Mapped[int]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    # provenance holds the change
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
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
    dataset: Mapped[Dataset] = relationship(back_populates="versions")


class Tokenizer(Record):
    """A tokenizer in a folder that any Hugging Face tool loads."""

    __tablename__ = "tokenizers"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    vocab_size: Mapped[int | None]
    folder: Mapped[str | None] = mapped_column(String(300))
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    facts: Mapped[TokenizerFacts] = mapped_column(default=TokenizerFacts)


class Architecture(Authored):
    """A stored ArchitectureConfig."""

    __tablename__ = "architectures"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[ArchitectureConfig]
    parameters: Mapped[int] = mapped_column(BigInteger)
    archived_at: Mapped[datetime | None]


class Checkpoint(Record):
    """Weights in a folder. `origin`: `run` (written by training), `added` (an imported base) or `upstream`: a model on
    another server, which has no folder; its `facts` hold the config of backend.domain.serving.upstream.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step"),)
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
    archived_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Analysis(Authored):
    """A stored analysis of a dataset, tokenizer or checkpoint. `kind` is the job's; `config` holds the request."""

    __tablename__ = "analyses"
    __table_args__ = (Index("ix_analyses_kind_created_at", "kind", "created_at"),)
    kind: Mapped[str] = mapped_column(String(30))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    tokenizer_id: Mapped[str | None] = mapped_column(ForeignKey("tokenizers.id"), index=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    other_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)  # its form depends on the kind, as that of result
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    folder: Mapped[str | None] = mapped_column(String(300))


# Jobs, runs, metric points, log lines, samples, workers and slots.


class Job(Authored):
    """One queued piece of work. This row, not the broker's message, determines what runs."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_queue", "status", "queue", "priority", "created_at", "id", "placement"),
        Index("ix_jobs_gangs", "status", "queue", "num_machines"),
    )
    kind: Mapped[str] = mapped_column(String(30))
    queue: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(String(200), default="")
    status: Mapped[str] = mapped_column(String(12), default="queued")
    priority: Mapped[int] = mapped_column(default=5)
    device_request: Mapped[str] = mapped_column(String(8), default="auto")  # auto | cpu | gpu
    num_devices: Mapped[int] = mapped_column(default=1)  # GPUs of one machine that it takes if it takes any
    num_machines: Mapped[int] = mapped_column(default=1)  # above 1: a gang, taken by all or by none
    payload: Mapped[dict[str, Any]] = mapped_column(default=dict)  # by kind: jobs.payloads
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)  # by kind: jobs.results
    error: Mapped[JobFailure] = mapped_column(default=JobFailure)
    attempt: Mapped[int] = mapped_column(default=0)
    lost: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=3)
    restarts_forever: Mapped[bool] = mapped_column(default=False)
    idempotency_key: Mapped[str | None] = mapped_column(String(80), unique=True)
    depends_on_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    placement: Mapped[str | None] = mapped_column(String(100))  # slurm:gpu; None: any worker of the installation
    stop_request: Mapped[str | None] = mapped_column(String(20))
    stop_requested_at: Mapped[datetime | None]
    owner: Mapped[str | None] = mapped_column(String(120))
    device: Mapped[str | None] = mapped_column(String(20))
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    published_at: Mapped[datetime | None]
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    progress: Mapped[ProgressEvent | None] = mapped_column(Document(ProgressEvent, none_is_empty=True), nullable=False)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class GangMember(Table):
    """A machine's part in a job of several machines: first it waits for the others, then it has a number in an attempt.

    `address`: where machine 0 is reached by the others. `error`: why this machine's part ended.
    """

    __tablename__ = "gang_members"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    host: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    device: Mapped[str | None] = mapped_column(Text)  # its GPUs with commas
    attempt: Mapped[int | None]
    number: Mapped[int | None]
    stage: Mapped[str] = mapped_column(String(10), default="waiting")  # waiting | placed | ready | left | ended
    address: Mapped[str | None] = mapped_column(String(120))
    error: Mapped[JobFailure] = mapped_column(default=JobFailure)
    joined_at: Mapped[datetime]
    lease_until: Mapped[datetime]


class Provider(Table):
    """A compute provider as it last answered: its partitions, or why there are none."""

    __tablename__ = "providers"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    partitions: Mapped[list[Partition]] = mapped_column(default=list)
    problem: Mapped[str] = mapped_column(Text, default="")
    checked_at: Mapped[datetime]


class Submission(Table):
    """A worker ordered from a compute provider for an attempt of a job: the nth, which is part of its key there.

    `state`, `word` and `reason` are the provider's, and advice: the job's lease decides what runs.
    """

    __tablename__ = "submissions"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]  # of the job when it was submitted: a claim raises it
    external_id: Mapped[str | None] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(10), default=SubmissionState.WAITING.value, index=True)
    word: Mapped[str] = mapped_column(String(40), default="")
    reason: Mapped[str] = mapped_column(String(200), default="")
    submitted_at: Mapped[datetime] = mapped_column(default=utc_now)
    missed_at: Mapped[datetime | None]  # since when the provider does not know it


class Run(Authored):
    """One experiment: one config, one set of curves. Its status is that of its newest job.

    `origin`: `launched`, or `imported` (curves of another program's log, without a config and without a job).
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_archived_at_created_at", "archived_at", "created_at"),
        Index("ix_runs_changed_at_id", "changed_at", "id"),
    )
    name: Mapped[str] = mapped_column(String(120))
    objective: Mapped[str] = mapped_column(String(20))
    config: Mapped[RunConfig | None] = mapped_column(Document(RunConfig, none_is_empty=True), nullable=False)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    architecture_id: Mapped[str | None] = mapped_column(ForeignKey("architectures.id"))
    tokenizer_id: Mapped[str | None] = mapped_column(ForeignKey("tokenizers.id"))
    base_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", use_alter=True), index=True)
    group_id: Mapped[str | None] = mapped_column(ForeignKey("run_groups.id"), index=True)
    # the run that this config was copied from
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    warnings: Mapped[list[LaunchWarning]] = mapped_column(default=list)  # warnings that were accepted at launch
    tags: Mapped[list[str]] = mapped_column(default=list)
    notes: Mapped[str] = mapped_column(Text, default="")
    last_step: Mapped[int] = mapped_column(default=0)
    summary: Mapped[RunSummary] = mapped_column(default=RunSummary)
    origin: Mapped[str] = mapped_column(String(10), default="launched")
    packed_to: Mapped[int] = mapped_column(default=0)  # points before this step are also in metric_blocks
    # number of times points were deleted: a browser with a lower count reloads all
    curve_resets: Mapped[int] = mapped_column(default=0)
    archived_at: Mapped[datetime | None]
    # any column: the table of runs reads the changed rows again
    changed_at: Mapped[datetime | None] = mapped_column(default=utc_now, onupdate=utc_now)

    @property
    def launched_config(self) -> RunConfig:
        """The config of a run that was launched here. Raises Conflict for an imported one, which has none."""
        if self.config is None:
            raise Conflict(f"“{self.name}” was imported from a log: it has no config.", remedy="Launch a run.")
        return self.config


class RunGroup(Authored):
    """Runs launched together: a scaling study, or a sweep over values."""

    __tablename__ = "run_groups"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)  # by kind: of a sweep or a study
    result: Mapped[SweepMarks] = mapped_column(default=SweepMarks)
    archived_at: Mapped[datetime | None]


class Measurement(Record):
    """Peak memory and speed of one training setting, measured by a probe or run, with the estimate.

    `setting` holds what affects memory and speed (shape, context, micro-batch, precision, method, ...); `bytes` are per
    process.
    """

    __tablename__ = "measurements"
    __table_args__ = (Index("ix_measurements_device_created_at", "device", "created_at"),)
    origin: Mapped[str] = mapped_column(String(10))  # probe | run
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    setting: Mapped[dict[str, Any]]  # a TrainingSetting, or for other families fields
    setting_hash: Mapped[str] = mapped_column(String(64), index=True)
    device: Mapped[str] = mapped_column(String(80))  # the device's name, such as "NVIDIA H100" or the CPU's
    host: Mapped[str] = mapped_column(String(80), default="")
    estimated_bytes: Mapped[int] = mapped_column(BigInteger)
    measured_bytes: Mapped[int] = mapped_column(BigInteger)
    tokens_per_s: Mapped[float] = mapped_column(Float)
    facts: Mapped[MeasurementFacts] = mapped_column(default=MeasurementFacts)


class MetricName(Table):
    """Dictionary of metric names, so that a point holds only numbers."""

    __tablename__ = "metric_names"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)


class MetricPoint(Table):
    """(run, name, step, value, time). Append-only; a resumed run drops the points after its checkpoint first."""

    __tablename__ = "metric_points"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name_id: Mapped[int] = mapped_column(ForeignKey("metric_names.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float] = mapped_column(Float)
    time: Mapped[float] = mapped_column(Float)


class MetricBlock(Table):
    """4,096 steps of one metric packed into a row, so that long curves read few rows. Can be rebuilt at any time.

    `points` holds the steps (int64), then the values, then the times (float64), little-endian.
    """

    __tablename__ = "metric_blocks"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name_id: Mapped[int] = mapped_column(ForeignKey("metric_names.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # its first step, divided by 4,096
    points: Mapped[bytes] = mapped_column(LargeBinary)


class LogLine(Table):
    """One line of a job's log."""

    __tablename__ = "log_lines"
    __table_args__ = (Index("ix_log_lines_job", "job_id", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    time: Mapped[float] = mapped_column(Float)
    text: Mapped[str] = mapped_column(Text)


class Sample(Table):
    """A completion of one of a run's fixed prompts at a step."""

    __tablename__ = "samples"
    __table_args__ = (Index("ix_samples_run_step", "run_id", "step"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    step: Mapped[int]
    prompt: Mapped[str] = mapped_column(Text)
    completion: Mapped[str] = mapped_column(Text)


class Worker(Table):
    """A Celery process with its last heartbeat and the state of its machine. `slots`: how many jobs of each of its
    queues it runs at once.
    """

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    host: Mapped[str] = mapped_column(String(80))
    pid: Mapped[int]
    slots: Mapped[dict[str, int]]
    devices: Mapped[list[str]] = mapped_column(default=list)
    gauges: Mapped[MachineGauges] = mapped_column(default=MachineGauges)
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    heartbeat_at: Mapped[datetime] = mapped_column(default=utc_now)


class InstallationSecret(Table):
    """The key that signs sessions, links and ballots, of an installation of several machines: one row."""

    __tablename__ = "installation_secret"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(200))


class Duty(Table):
    """Work that one worker at a time does for the installation, and when it was last begun."""

    __tablename__ = "duties"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    begun_at: Mapped[datetime]


class Slot(Table):
    """A GPU of a machine that a job holds. The primary key prevents two jobs on one GPU."""

    __tablename__ = "slots"
    host: Mapped[str] = mapped_column(String(80), primary_key=True)
    device: Mapped[str] = mapped_column(String(20), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(String(12))
    lease_until: Mapped[datetime]


# Evaluations, their scores and items, and tasks of the team.


class EvaluatedEndpoint(Authored):
    """An endpoint that evaluations score: one of this installation (`url` is empty), or a model behind an
    OpenAI-compatible API.

    `config` is an EndpointConfig, which names the place of a key and never holds one; `capabilities` say what the API
    offers.
    """

    __tablename__ = "evaluated_endpoints"
    __table_args__ = (UniqueConstraint("name", "url", "model"),)
    name: Mapped[str] = mapped_column(String(80))
    url: Mapped[str] = mapped_column(String(300), default="")
    model: Mapped[str] = mapped_column(String(200))
    config: Mapped[EndpointConfig]
    capabilities: Mapped[Capabilities] = mapped_column(default=dict)
    archived_at: Mapped[datetime | None]


class Evaluation(Authored):
    """One benchmark on one checkpoint or endpoint. `metric` family: `perplexity`, `multiple_choice` or `generation`."""

    __tablename__ = "evaluations"
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    dataset_version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    record: Mapped[EvaluationRecord] = mapped_column("config", default=EvaluationRecord)
    fingerprint: Mapped[str] = mapped_column(String(64), default="", index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))

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


class EvaluationTask(Authored):
    """A task of the team, as its YAML `text`. An evaluation holds its own copy, so changes here change no score."""

    __tablename__ = "evaluation_tasks"
    name: Mapped[str] = mapped_column(String(80), unique=True)
    text: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


# Suites of benchmarks, scores packed for boards, and results imported from other harnesses.


class Suite(Authored):
    """A named list of benchmarks with their settings. `config` is a SuiteConfig; a change makes no difference to
    results that exist.
    """

    __tablename__ = "suites"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[SuiteConfig]
    archived_at: Mapped[datetime | None]


class SuiteResult(Authored):
    """A suite on a checkpoint or an endpoint. `config` is the suite's as it was; `members` holds an evaluation's id, or
    why there is none, for each.

    `launched_at` is set once every member has its evaluation or its error; until then workers launch what is missing.
    """

    __tablename__ = "suite_results"
    __table_args__ = (Index("ix_suite_results_suite_id_created_at", "suite_id", "created_at"),)
    suite_id: Mapped[str] = mapped_column(ForeignKey("suites.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    config: Mapped[SuiteConfig]
    members: Mapped[list[MemberOutcome]] = mapped_column(default=list)
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


class ImportedEvaluation(Authored):
    """Scores that another program measured, read from its file; shown beside ours and never tested against them.

    `config` is what the file says about the settings, in its own words.
    """

    __tablename__ = "imported_evaluations"
    __table_args__ = (UniqueConstraint("content_hash", "benchmark"),)
    content_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(300))
    harness: Mapped[str] = mapped_column(String(80), default="")
    model: Mapped[str] = mapped_column(String(200))
    benchmark: Mapped[str] = mapped_column(String(160))
    scores: Mapped[list[StatedScore]] = mapped_column(default=list)
    config: Mapped[JsonObject] = mapped_column(default=dict)  # words of another program


# Gates on checkpoints, their verdicts, and the endpoints that require one.


class Gate(Authored):
    """A named gate. `config` is a GateConfig; it never changes, so that verdicts stay comparable."""

    __tablename__ = "gates"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    config: Mapped[GateConfig]


class GateResult(Authored):
    """A verdict of a gate on a checkpoint or an endpoint, append-only. `report` holds decision and evaluations."""

    __tablename__ = "gate_results"
    __table_args__ = (Index("ix_gate_results_gate_id_created_at", "gate_id", "created_at"),)
    gate_id: Mapped[str] = mapped_column(ForeignKey("gates.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    champion_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    champion_endpoint_id: Mapped[str | None] = mapped_column(ForeignKey("evaluated_endpoints.id"), index=True)
    verdict: Mapped[str] = mapped_column(String(12))
    report: Mapped[GateReport] = mapped_column(default=GateReport)


class RequiredGate(Table):
    """An endpoint's name that only checkpoints which pass the gate may be deployed to; it need not exist yet."""

    __tablename__ = "required_gates"
    __table_args__ = (UniqueConstraint("endpoint", "gate_id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    endpoint: Mapped[str] = mapped_column(String(80))
    gate_id: Mapped[str] = mapped_column(ForeignKey("gates.id"), index=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


# Campaigns of blind votes: contestants, prompts, completions, raters, battles, votes; and what is decided by them.


class Campaign(Authored):
    """A set of prompts, contestants, raters and a stopping rule.

    A rematch refers to the campaign whose votes it trains on (`parent_id`) and the run that trains its new contestant
    (`run_id`).
    """

    __tablename__ = "campaigns"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    record: Mapped[CampaignRecord] = mapped_column("config", default=CampaignRecord)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), unique=True)
    closed_at: Mapped[datetime | None]

    @property
    def config(self) -> CampaignConfig:
        """Prompts, sampling, pairing, ballot and stopping rule."""
        return self.record.config


class Contestant(Record):
    """An author of completions in a campaign: a checkpoint, an endpoint or an imported file; `kind` says which.

    Gold pairs are written by two contestants of the kinds `gold_better` and `gold_worse`, which no board shows.
    `source` of an endpoint holds its address and model, of a file its name and hash; `label` is its name.
    """

    __tablename__ = "contestants"
    __table_args__ = (UniqueConstraint("campaign_id", "checkpoint_id"),)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    kind: Mapped[str] = mapped_column(String(12), default="checkpoint", server_default="checkpoint")
    label: Mapped[str] = mapped_column(String(120), default="", server_default="")
    source: Mapped[dict[str, str | None]] = mapped_column(default=dict, server_default="{}")
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))


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


class Completion(Record):
    """A contestant's answer to a prompt, one of several numbered by `sample`. Answers that differ only in outer
    whitespace share a `text_hash`.
    """

    __tablename__ = "completions"
    __table_args__ = (UniqueConstraint("prompt_id", "contestant_id", "sample"),)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("campaign_prompts.id"), index=True)
    contestant_id: Mapped[str] = mapped_column(ForeignKey("contestants.id"), index=True)
    sample: Mapped[int] = mapped_column(default=0, server_default="0")
    text: Mapped[str] = mapped_column(Text)
    text_hash: Mapped[str] = mapped_column(String(64))
    tokens: Mapped[int] = mapped_column(default=0)
    facts: Mapped[dict[str, str | None]] = mapped_column(default=dict)


class Rater(Authored):
    """A voter: a signed-in user, the person on loopback, or the holder of a link (only the hash of its secret is kept).

    `created_by` is the account that made the link. The first browser that opens a single-use link leaves the hash of
    its cookie in `browser_hash`; no other browser may use the link.
    """

    __tablename__ = "raters"
    name: Mapped[str] = mapped_column(String(80))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), unique=True)
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"))
    link_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    single_use: Mapped[bool] = mapped_column(default=False, server_default=false())
    browser_hash: Mapped[str | None] = mapped_column(String(64))
    expires_at: Mapped[datetime | None]


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


class AnswerRating(Record):
    """A rating of a single completion, 1 to 5 (thumbs down is 1, up is 5). Append-only: the last `revision` counts."""

    __tablename__ = "answer_ratings"
    __table_args__ = (UniqueConstraint("completion_id", "rater_id", "revision"),)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    completion_id: Mapped[str] = mapped_column(ForeignKey("completions.id"))
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"), index=True)
    revision: Mapped[int]
    value: Mapped[int]
    note: Mapped[str] = mapped_column(Text, default="")


# Decisions on campaigns: excluded raters, frozen boards, aliases of checkpoints and their promotions.


class RaterExclusion(Authored):
    """A rater's exclusion from a campaign's board, or its end. Append-only: the newest row of a rater decides."""

    __tablename__ = "rater_exclusions"
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), index=True)
    rater_id: Mapped[str] = mapped_column(ForeignKey("raters.id"), index=True)
    excluded: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text, default="")


class FrozenBoard(Authored):
    """A frozen leaderboard. `digest` is the SHA-256 of `document`: votes, options, seed, code version and ratings."""

    __tablename__ = "frozen_boards"
    __table_args__ = (UniqueConstraint("campaign_id", "name"),)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    name: Mapped[str] = mapped_column(String(120))
    digest: Mapped[str] = mapped_column(String(64))
    document: Mapped[JsonObject] = mapped_column(default=dict)  # the digest is of these bytes


class Alias(Authored):
    """A name such as `storyteller@production` for the checkpoint that holds it now. `promotions` is its history."""

    __tablename__ = "aliases"
    name: Mapped[str] = mapped_column(String(120), unique=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Promotion(Authored):
    """A decision on an alias, append-only: promote, reject or rollback. `evidence` holds its verdict and gates."""

    __tablename__ = "promotions"
    __table_args__ = (Index("ix_promotions_alias_id_created_at", "alias_id", "created_at"),)
    alias_id: Mapped[str] = mapped_column(ForeignKey("aliases.id"))
    decision: Mapped[str] = mapped_column(String(10))
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    previous_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    evidence: Mapped[PromotionEvidence] = mapped_column(default=PromotionEvidence)


# Endpoints, deployments, replicas, usage and conversations.


class Endpoint(Authored):
    """The public name that clients put in `model=`."""

    __tablename__ = "endpoints"
    name: Mapped[str] = mapped_column(String(80), unique=True)


class Deployment(Authored):
    """A revision of an endpoint: a checkpoint, a number of replicas and options. `role` is stable, canary for one that
    gets a share of the traffic, or shadow for one that gets copies. A new stable one replaces the previous one replica
    by replica; history is kept. `restores` is the revision that a rollback went back to; `traffic` holds share, rules
    and outcome of a canary or shadow, and what autoscaling did.
    """

    __tablename__ = "deployments"
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"), index=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    num_replicas: Mapped[int] = mapped_column(default=1)
    config: Mapped[DeploymentConfig] = mapped_column(default=DeploymentConfig)
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


class ReplicaFailure(Record):
    """A request that a replica lost: unreachable, broken off or failed, whether or not another answered it."""

    __tablename__ = "replica_failures"
    __table_args__ = (Index("ix_replica_failures_replica_time", "replica_id", "created_at"),)
    replica_id: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str] = mapped_column(String(40))


class ShadowComparison(Record):
    """A request and its copy at a shadow (a deployment of this role): how their answers compare. Holds no text."""

    __tablename__ = "shadow_comparisons"
    __table_args__ = (Index("ix_shadow_comparisons_deployment_time", "deployment_id", "created_at"),)
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id"))
    is_equal: Mapped[bool | None]
    primary_tokens: Mapped[int] = mapped_column(default=0)
    shadow_tokens: Mapped[int] = mapped_column(default=0)
    primary_ttft_ms: Mapped[float | None] = mapped_column(Float)
    shadow_ttft_ms: Mapped[float | None] = mapped_column(Float)
    primary_total_ms: Mapped[float] = mapped_column(Float)
    shadow_total_ms: Mapped[float] = mapped_column(Float)
    error: Mapped[str] = mapped_column(String(40), default="")


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


class Conversation(Record):
    """A stored chat. Belongs to a user; on a loopback installation, to none."""

    __tablename__ = "conversations"
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    title: Mapped[str] = mapped_column(String(160), default="")
    endpoint: Mapped[str] = mapped_column(String(80))
    other_endpoint: Mapped[str | None] = mapped_column(String(80))
    system_prompt: Mapped[str] = mapped_column(Text, default="")
    sampling: Mapped[TurnSettings] = mapped_column(default=TurnSettings)
    leaf_id: Mapped[str | None] = mapped_column(String(12))
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Message(Record):
    """One turn, a node of the conversation's tree: it answers `parent_id`. Children of a message are numbered in rounds
    (`round`: an edited question or a regenerated answer begins one); `branch` is the column of an answer among those
    side by side.

    `status`: done, running, stopping (a stop was requested), stopped, failed. While an answer is generated its row is
    updated, the time in `updated_at`. `tokens` holds the probabilities of an answer's tokens where they were requested.
    """

    __tablename__ = "messages"
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
    updated_at: Mapped[datetime | None]


class ConversationShare(Authored):
    """A link that shows every account a conversation up to its last message then. Its secret is signed, not stored."""

    __tablename__ = "conversation_shares"
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), index=True)
    leaf_id: Mapped[str] = mapped_column(String(12))
    revoked_at: Mapped[datetime | None]


class Preset(Record):
    """Named settings of the playground. A shared one is offered to every account; only its owner changes it."""

    __tablename__ = "presets"
    name: Mapped[str] = mapped_column(String(80))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    is_shared: Mapped[bool] = mapped_column(default=False)
    settings: Mapped[AnswerSettings] = mapped_column(default=AnswerSettings)


class Prompt(Authored):
    """A prompt of the team by its name. What it says is in its versions."""

    __tablename__ = "prompts"
    name: Mapped[str] = mapped_column(String(80), unique=True)


class PromptVersion(Authored):
    """One version of a prompt, never changed after its author saved it. `note` says what is new."""

    __tablename__ = "prompt_versions"
    __table_args__ = (UniqueConstraint("prompt_id", "number"),)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"))
    number: Mapped[int]
    body: Mapped[PromptText]
    note: Mapped[str] = mapped_column(String(200), default="")


class PromptMatrix(Authored):
    """A version of a prompt tried on rows and endpoints. `source` says where the rows are from. `status`: running,
    stopping (a stop was requested), done, stopped, failed. While answers are generated its row is updated every second,
    the time in `updated_at`.
    """

    __tablename__ = "prompt_matrices"
    version_id: Mapped[str] = mapped_column(ForeignKey("prompt_versions.id"), index=True)
    source: Mapped[str] = mapped_column(String(200), default="")
    settings: Mapped[AnswerSettings] = mapped_column(default=AnswerSettings)
    answers: Mapped[MatrixAnswers] = mapped_column(default=MatrixAnswers)
    status: Mapped[str] = mapped_column(String(10), default="running")
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


# Rollups of traffic and gauges, alerts, request logs, feedback and load tests.


OPEN = "resolved_at IS NULL"


class TrafficRollup(Table):
    """Requests of an endpoint in one interval of 60, 600 or 3,600 seconds. `variant` is `stable:` with the deployment,
    or a canary's deployment. `ttft`, `itl`, `total` and `queue` are counts by bucket of a latency.
    """

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
    """Devices that one attempt of a job held, with the price of the hour when it began. Open without `ended_at`."""

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


class AlertDelivery(Record):
    """A message of an alert to one channel (webhook or e-mail). It is tried until it is sent or given up; `next_at` is
    empty then.
    """

    __tablename__ = "alert_deliveries"
    alert_id: Mapped[str] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"), index=True)
    channel: Mapped[str] = mapped_column(String(10))
    message: Mapped[AlertMessage]
    attempts: Mapped[int] = mapped_column(default=0)
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


class Feedback(Record):
    """A thumb, a correction or a comment on an answer. `rating` is 1, -1 or empty. `request_id` names the request or,
    where `source` is playground, the message; such a row holds a copy of prompt and answer, so that it outlives the
    conversation.
    """

    __tablename__ = "feedback"
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


class LoadTest(Authored):
    """A load test of a deployment, with its config and result."""

    __tablename__ = "load_tests"
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"), index=True)
    deployment_id: Mapped[str] = mapped_column(String(12))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    config: Mapped[LoadConfig] = mapped_column(default=LoadConfig)
    result: Mapped[LoadOutcome] = mapped_column(default=LoadOutcome)
