"""Read runs: lists, one run in full, samples, held-out rows, place in the queue, configs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import Architecture, Checkpoint, Dataset, DatasetVersion, Job, Run, Sample, Tokenizer, User
from backend.domain.attributes import view_of
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.progress import expected_wait_s
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.training.config import RunConfig
from backend.domain.training.held_out import FILE as HELD_OUT_FILE
from backend.domain.training.held_out import MAX_BYTES as MAX_HELD_OUT_BYTES
from backend.domain.training.held_out import HeldOutRows
from backend.domain.training.repetition import Repetition, Stage, list_stages, repeat_run
from backend.domain.training.summary import EncodedRows, Restart, RunTime, mean_tokens_per_step, run_seconds
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.jobs.device_uses import times_of_jobs
from backend.services.jobs.jobs import JobView, read_log, view
from backend.services.jobs.queue_position import JobsAhead, queue_ahead, queue_positions
from backend.services.jobs.workers import list_workers
from backend.services.lookups import find_named
from backend.services.training.live import read_state


@dataclass(frozen=True)
class RunView:
    """A run in a list. `line` is its progress in one line; `error` has its job's cause and remedy."""

    id: str
    name: str
    objective: str
    method: str
    status: Status
    line: str
    share: float
    last_step: int
    max_steps: int
    tokens_per_step: float | None
    best_val_loss: float | None
    last: dict[str, float]
    spark: tuple[float, ...]
    dataset: str
    base: str | None
    base_id: str | None
    tags: tuple[str, ...]
    notes: str
    job_id: str | None
    error: JobFailure
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    archived_at: datetime | None
    is_imported: bool = False  # curves of another program's log: without config, job and checkpoints
    source: str = ""  # the log's file
    import_notes: tuple[str, ...] = ()
    earlier_s: float = 0.0  # of the jobs before the newest
    time: RunTime | None = None  # of the newest
    encoded: EncodedRows | None = None
    restart: Restart | None = None

    def seconds(self, now: datetime) -> float | None:
        """Return how long its jobs have held devices, None before the first starts."""
        return run_seconds(self.earlier_s, self.time, now=now)

    @property
    def tokens(self) -> int | None:
        """Number of tokens processed so far, None if it is not known."""
        return None if self.tokens_per_step is None else round(self.last_step * self.tokens_per_step)

    @property
    def is_active(self) -> bool:
        """Return whether it waits, runs or is being stopped."""
        return self.status in ACTIVE


@dataclass(frozen=True)
class CheckpointLine:
    """A checkpoint of a run, as its page lists it."""

    id: str
    name: str
    step: int | None
    metrics: Mapping[str, float | None]
    bytes: int
    is_final: bool
    created_at: datetime

    @property
    def val_loss(self) -> float | None:
        """Loss by which checkpoints are ranked: of a policy its mean reward's negative."""
        return self.metrics.get("val_loss")


@dataclass(frozen=True)
class RunDetail:
    """A run in full. `config` names the dataset's version and the base checkpoint that the run was trained on, whatever
    is newest now. `val_rows`: rows that this version holds out. `resume_step` is the newest checkpoint's step, None
    without one.
    """

    run: RunView
    config: RunConfig
    job: JobView | None
    dataset_id: str | None
    val_rows: int
    architecture: str | None
    tokenizer: str | None
    result: dict[str, int | float | str | bool]
    checkpoints: tuple[CheckpointLine, ...]
    parent: tuple[str, str] | None  # (id, name) of the run whose config it was made from
    # (id, name) of runs that start from one of its checkpoints, or were made from its config
    children: tuple[tuple[str, str], ...]
    device: str | None

    @property
    def resume_step(self) -> int | None:
        """The step that a resumed run continues from."""
        return max((line.step for line in self.checkpoints if line.step is not None), default=None)


@dataclass(frozen=True)
class ExpectedStart:
    """The jobs that run or wait before a queued run, the runs that workers train at once, and the seconds until it
    starts, None where they are unknown.
    """

    ahead: JobsAhead
    num_slots: int
    expected_wait_s: float | None


@dataclass(frozen=True)
class SampleView:
    """A completion at a step."""

    step: int
    prompt: str
    completion: str


def list_runs(
    ctx: Context,
    *,
    limit: int = 50,
    archived: bool = False,
    statuses: Collection[Status] | None = None,
    ended: bool = False,
) -> list[RunView]:
    """Return runs, newest first; `statuses` are of their jobs, `ended` those that neither wait nor run."""
    conditions: list[ColumnElement[bool]] = [Run.archived_at.is_not(None) if archived else Run.archived_at.is_(None)]
    if statuses is not None:
        conditions.append(Job.status.in_(statuses))
    if ended:
        conditions.append(or_(Job.status.is_(None), Job.status.not_in(ACTIVE)))
    with ctx.db.read() as session:
        query = select(Run.id).outerjoin(Job, Job.id == Run.job_id).where(*conditions)
        # rows are wide, so only the shown ones are read
        ids = list(session.scalars(query.order_by(Run.created_at.desc(), Run.id).limit(limit)))
        rows = session.execute(select(Run, Job).outerjoin(Job, Job.id == Run.job_id).where(Run.id.in_(ids))).all()
        return views_of(session, sorted(rows, key=lambda row: ids.index(row[0].id)))


def get_run(ctx: Context, name_or_id: str) -> RunView:
    """Return a run by id, or the newest of a name. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        run = find_run(session, name_or_id)
        job = session.get(Job, run.job_id) if run.job_id else None
        return views_of(session, [(run, job)])[0]


def get_runs(ctx: Context, run_ids: Sequence[str]) -> list[RunView]:
    """Return the runs with these ids, in their order; unknown ids are skipped."""
    with ctx.db.read() as session:
        rows = session.execute(select(Run, Job).outerjoin(Job, Job.id == Run.job_id).where(Run.id.in_(run_ids))).all()
        by_id = {run.id: run for run in views_of(session, rows)}
        return [by_id[run_id] for run_id in run_ids if run_id in by_id]


def run_detail(ctx: Context, name_or_id: str) -> RunDetail:
    """Return a run in full, without points, samples and log. Raises NotFound, and InvalidInput for an imported run."""
    run = get_run(ctx, name_or_id)
    if run.is_imported:
        raise InvalidInput(
            f"“{run.name}” was imported as curves: it has no config and no checkpoints.",
            remedy="Choose a run of this installation.",
        )
    with ctx.db.read() as session:
        row = session.get_one(Run, run.id)
        job = session.get(Job, row.job_id) if row.job_id else None
        architecture = session.get(Architecture, row.architecture_id) if row.architecture_id else None
        tokenizer = session.get(Tokenizer, row.tokenizer_id) if row.tokenizer_id else None
        version = session.get(DatasetVersion, row.dataset_version_id) if row.dataset_version_id else None
        children = session.execute(
            select(Run.id, Run.name)
            .outerjoin(Checkpoint, Checkpoint.id == Run.base_id)
            .where(or_(Checkpoint.run_id == run.id, Run.parent_id == run.id))
            .order_by(Run.created_at)
        )
        parent = session.get(Run, row.parent_id) if row.parent_id else None
        return RunDetail(
            run=run,
            config=_exact_config(row.launched_config, run),
            job=view(job) if job else None,
            dataset_id=version.dataset_id if version else None,
            val_rows=(version.val_rows or 0) if version else 0,
            architecture=architecture.name if architecture else None,
            tokenizer=tokenizer.name if tokenizer else None,
            result=row.summary.result,
            checkpoints=tuple(_checkpoints(session, run.id)),
            parent=(parent.id, parent.name) if parent else None,
            children=tuple((c[0], c[1]) for c in children),
            device=job.device if job else None,
        )


def how_to_repeat(ctx: Context, detail: RunDetail) -> Repetition:
    """Return how to repeat a run, given all jobs that it has had."""
    with ctx.db.read() as session:
        query = select(Job.payload).where(_trains(detail.run.id)).order_by(Job.created_at, Job.id)
        payloads = [TrainPayload.read(payload) for payload in session.scalars(query)]
    stages = list_stages([Stage(payload.after_step, payload.config) for payload in payloads])
    return repeat_run(detail.run.name, detail.config, stages or [Stage(None, detail.config)])


def expected_start(ctx: Context, job_id: str) -> ExpectedStart:
    """Return a queued run's wait, by its job; nothing is ahead of one that isn't queued any more."""
    ahead = queue_ahead(ctx, job_id)
    workers = [worker for worker in list_workers(ctx) if worker.takes_jobs and "train" in worker.queues]
    slots = sum(max(1, len(worker.devices) or worker.concurrency) for worker in workers)
    return ExpectedStart(ahead, slots, expected_wait_s(ahead.progress, slots=slots) if ahead.count >= slots else None)


def read_configs(ctx: Context, run_ids: Sequence[str]) -> list[RunConfig | None]:
    """Return the runs' configs as `RunDetail` has them; None for an imported run."""
    with ctx.db.read() as session:
        runs = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(run_ids)))}
        views = {run.id: run for run in views_of(session, [(run, None) for run in runs.values()])}
        return [
            _exact_config(run.config, views[run.id]) if run.config else None
            for run in (runs[run_id] for run_id in run_ids)
        ]


def _exact_config(config: RunConfig, run: RunView) -> RunConfig:
    """Return a run's config with the dataset's version and the base checkpoint that it was trained on: a dataset's name
    stands for its newest version, and a run's for its newest checkpoint.
    """
    return config.model_copy(update={"dataset": run.dataset or config.dataset, "base": run.base or config.base})


def unique_names(runs: Sequence[RunView | Run]) -> list[str]:
    """Return the runs' names; of several with one name, with the beginning of their ids."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else f"{run.name} ({run.id[:4]})" for run in runs]


def list_sample_steps(ctx: Context, run_id: str) -> list[int]:
    """Return the steps at which a run wrote samples, newest first."""
    with ctx.db.read() as session:
        return list(
            session.scalars(select(Sample.step).where(Sample.run_id == run_id).distinct().order_by(Sample.step.desc()))
        )


def list_samples(ctx: Context, run_id: str, *, step: int) -> list[SampleView]:
    """Return a run's sample completions at a step, in the order of its prompts."""
    with ctx.db.read() as session:
        rows = session.scalars(select(Sample).where(Sample.run_id == run_id, Sample.step == step).order_by(Sample.id))
        return [SampleView(row.step, row.prompt, row.completion) for row in rows]


def find_run(session: Session, name_or_id: str) -> Run:
    """Return the row of a run by id, or the newest of a name. Raises NotFound."""
    return find_named(session, Run, name_or_id, what="run", remedy="See `roundhouse run list`, or launch one.")


def newest_checkpoint_step(session: Session, run_id: str) -> int | None:
    """Return the step of the newest checkpoint with files."""
    return session.scalar(
        select(func.max(Checkpoint.step)).where(
            Checkpoint.run_id == run_id, Checkpoint.deleted_at.is_(None), Checkpoint.folder.is_not(None)
        )
    )


def views_of(session: Session, rows: Sequence[tuple[Run, Job | None]]) -> list[RunView]:
    """Copy rows into views, reading the names they refer to in one query each."""
    versions = {run.dataset_version_id for run, _ in rows if run.dataset_version_id}
    bases = {run.base_id for run, _ in rows if run.base_id}
    people = {run.created_by for run, _ in rows if run.created_by}
    query = (
        select(DatasetVersion.id, Dataset.name, DatasetVersion.number)
        .join(Dataset)
        .where(DatasetVersion.id.in_(versions))
    )
    datasets = {key: f"{name}@{number}" for key, name, number in session.execute(query)}
    base_names = dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(bases))).all())
    names = dict(session.execute(select(User.id, User.name).where(User.id.in_(people))).all())
    started = [job.id for _, job in rows if job is not None and job.started_at is not None]
    times = times_of_jobs(session, started) if started else {}
    ahead = queue_positions(session, [job for _, job in rows if job is not None and job.status == Status.QUEUED])
    return [
        _view(
            run,
            job,
            dataset=datasets.get(run.dataset_version_id or "", ""),
            base=base_names.get(run.base_id or ""),
            created_by=names.get(run.created_by or ""),
            ahead=ahead.get(job.id, 0) if job else 0,
            time=times.get(run.job_id or ""),
        )
        for run, job in rows
    ]


def read_run_log(ctx: Context, run: RunView, *, last: int = 200) -> list[str]:
    """Return the last lines of a run's log, oldest first, with those of the jobs that its newest continues."""
    if run.job_id is None:
        return []
    earlier: Sequence[str] = ()
    if run.earlier_s:
        with ctx.db.read() as session:
            earlier = session.scalars(select(Job.id).where(_trains(run.id))).all()
    return read_log(ctx, run.job_id, earlier=earlier, last=last)


def _trains(run_id: str) -> ColumnElement[bool]:
    """Return the condition of a job that it is one of this run: one that was resumed has several."""
    return and_(Job.kind == JobKind.TRAIN, Job.payload["run_id"].as_string() == run_id)


def _view(
    run: Run,
    job: Job | None,
    *,
    dataset: str,
    base: str | None,
    created_by: str | None,
    ahead: int,
    time: RunTime | None,
) -> RunView:
    status, line, share = read_state(run, job, ahead=ahead)
    summary = run.summary
    return view_of(
        RunView,
        run,
        method=run.config.method if run.config else "full",
        status=status,
        line=line,
        share=share,
        max_steps=run.config.max_steps if run.config else 0,
        tokens_per_step=mean_tokens_per_step(
            run.config.tokens_per_step, samples=run.config.objective.samples, last=summary.last, steps=run.last_step
        )
        if run.config
        else 0,
        best_val_loss=summary.best_val_loss,
        last=summary.last,
        spark=tuple(value for _, value in summary.spark),
        dataset=dataset,
        base=base,
        tags=tuple(run.tags or ()),
        error=job.error if job else JobFailure(),
        created_by=created_by,
        started_at=job.started_at if job else None,
        finished_at=job.finished_at if job else None,
        is_imported=run.origin == "imported",
        source=summary.imported.file if summary.imported else "",
        import_notes=summary.imported.notes if summary.imported else (),
        earlier_s=summary.earlier_s,
        time=time,
        encoded=summary.encoded,
        restart=summary.restart,
    )


def _checkpoints(session: Session, run_id: str) -> list[CheckpointLine]:
    query = (
        select(Checkpoint)
        .where(Checkpoint.run_id == run_id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.step.desc())
    )
    return [
        CheckpointLine(row.id, row.name, row.step, row.metrics or {}, row.bytes, row.is_final, row.created_at)
        for row in session.scalars(query)
    ]


def read_held_out(ctx: Context, run: RunView) -> HeldOutRows | None:
    """Return a run's worst held-out rows of its newest checkpoint's validation; None without any, or of a step that it
    has not reached again.
    """
    try:
        with ctx.artifacts.path(f"runs/{run.id}/{HELD_OUT_FILE}").open("rb") as file:
            text = file.read(MAX_HELD_OUT_BYTES + 1)
        rows = HeldOutRows.model_validate_json(text)
    except (OSError, ValidationError):
        return None
    return rows if rows.step <= run.last_step else None
