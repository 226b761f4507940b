"""Jobs, runs, metric points, log lines, samples, workers and slots."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.db.documents import Document
from backend.domain.jobs.events import ProgressEvent
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.placement import Partition, SubmissionState
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import MeasurementFacts
from backend.domain.training.config import RunConfig
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.training.summary import RunSummary
from backend.domain.training.sweep_marks import SweepMarks
from backend.errors import Conflict


class Job(Table):
    """One queued piece of work. This row, not the broker's message, determines what runs."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_queue", "status", "queue", "priority", "created_at", "id", "placement"),
        Index("ix_jobs_gangs", "status", "queue", "num_machines"),
    )
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(30))
    queue: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(String(200), default="")
    status: Mapped[str] = mapped_column(String(12), default="queued")
    priority: Mapped[int] = mapped_column(default=5)
    device_request: Mapped[str] = mapped_column(String(8), default="auto")  # auto | cpu | gpu
    num_devices: Mapped[int] = mapped_column(default=1)  # GPUs of one machine that it takes if it takes any
    num_machines: Mapped[int] = mapped_column(default=1)  # above 1: a gang, taken by all or by none
    payload: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of its kind: jobs.payloads
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of its kind: jobs.results
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
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
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


class Run(Table):
    """One experiment: one config, one set of curves. Its status is that of its newest job.

    `origin`: `launched`, or `imported` (curves of another program's log, without a config and without a job).
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_archived_at_created_at", "archived_at", "created_at"),
        Index("ix_runs_changed_at_id", "changed_at", "id"),
    )
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120))
    objective: Mapped[str] = mapped_column(String(20))
    config: Mapped[RunConfig | None] = mapped_column(Document(RunConfig, none_is_empty=True), nullable=False)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset_version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    architecture_id: Mapped[str | None] = mapped_column(ForeignKey("architectures.id"))
    tokenizer_id: Mapped[str | None] = mapped_column(ForeignKey("tokenizers.id"))
    base_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", use_alter=True), index=True)
    group_id: Mapped[str | None] = mapped_column(ForeignKey("run_groups.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(
        ForeignKey("runs.id"), index=True
    )  # the run that this config was copied from
    warnings: Mapped[list[LaunchWarning]] = mapped_column(default=list)  # warnings that were accepted at launch
    tags: Mapped[list[str]] = mapped_column(default=list)
    notes: Mapped[str] = mapped_column(Text, default="")
    last_step: Mapped[int] = mapped_column(default=0)
    summary: Mapped[RunSummary] = mapped_column(default=RunSummary)
    origin: Mapped[str] = mapped_column(String(10), default="launched")
    packed_to: Mapped[int] = mapped_column(default=0)  # points before this step are also in metric_blocks
    curve_resets: Mapped[int] = mapped_column(
        default=0
    )  # number of times points were deleted: a browser with a lower count reloads all
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]
    changed_at: Mapped[datetime | None] = mapped_column(
        default=utc_now, onupdate=utc_now
    )  # of any column: the table of runs reads again what changed

    @property
    def launched_config(self) -> RunConfig:
        """The config of a run that was launched here. Raises Conflict for an imported one, which has none."""
        if self.config is None:
            raise Conflict(f"“{self.name}” was imported from a log: it has no config.", remedy="Launch a run.")
        return self.config


class RunGroup(Table):
    """Runs launched together: a scaling study, or a sweep over values."""

    __tablename__ = "run_groups"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of its kind: a sweep or a study
    result: Mapped[SweepMarks] = mapped_column(default=SweepMarks)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    archived_at: Mapped[datetime | None]


class Measurement(Table):
    """Peak memory and speed of one training setting, measured by a probe or run, with the estimate.

    `setting` holds what affects memory and speed (shape, context, micro-batch, precision, method, ...); `bytes` are per
    process.
    """

    __tablename__ = "measurements"
    __table_args__ = (Index("ix_measurements_device_created_at", "device", "created_at"),)
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
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
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


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
    number: Mapped[int] = mapped_column(primary_key=True)  # of the first step, divided by 4,096
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
