"""Reports on datasets before training: requested, computed by a job, stored as an analysis. The same request returns
the stored report. The time of an epoch is estimated from the measured rate of a run with the same base or tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.tables import Analysis, Dataset, DatasetVersion, Job, MetricName, MetricPoint, Run
from backend.domain.attributes import view_of
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.reports.report import ROW_TOKENS, DataReport, ReportQuestion, ReportSample
from backend.domain.data.versions.changes import DropRows
from backend.domain.jobs.payloads import require_folder
from backend.domain.jobs.reports import DataReportPayload, NamedFolder
from backend.domain.jobs.results import DataReportResult
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.training.config import RunConfig
from backend.domain.validation import read_stored, read_values
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import get_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import list_datasets, resolve_version
from backend.services.data.versions import derive_version
from backend.services.data.views import VersionView
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import JobState, add_job, job_state, request_stop, wake
from backend.services.lookups import find_row
from backend.services.tokenizers.sources import TokenizerSource, list_sources, resolve_source

KIND = JobKind.DATA_REPORT.value
FORMAT = 4
"""Bumped when the same request would give another report, so that stored ones are not reused."""

MAX_DEFAULT = 1024
REASONS: dict[str, str] = {
    "duplicates": "Duplicates and near duplicates, all but the first",
    "exact_duplicates": "Exact duplicates, all but the first",
    "leakage": "Train rows that are also in the validation split",
    "contamination": "Rows with items of benchmarks",
    "zero_label": "Rows with nothing to train on",
    "empty": "Empty rows",
    "refused": "Rows that the chat template refuses",
    "forged": "Rows that spell special tokens",
}
"""Rows that a report can drop, with their description in the new version's lineage."""

_SAMPLES: TypeAdapter[list[ReportSample]] = TypeAdapter(list[ReportSample])


@dataclass(frozen=True, kw_only=True)
class DataReportView(JobState):
    """A report; `report` is None until it is finished. `source` is the tokenizer's reference, None for plain bytes."""

    id: str
    version_id: str
    dataset_id: str
    version: str
    job_id: str | None
    source: str | None
    source_name: str
    question: ReportQuestion
    report: DataReport | None
    folder: str | None
    created_at: datetime
    reused: bool = False  # the report existed already


def default_source(ctx: Context, kind: str) -> TokenizerSource | None:
    """Return the default tokenizer: for texts the newest one trained here, otherwise the newest base's."""
    needed = "tokenizer" if kind == "text" else "checkpoint"
    sources = list_sources(ctx)
    return next((source for source in sources if source.kind == needed), sources[0] if sources else None)


def default_question(ctx: Context, version: VersionView, source: TokenizerSource | None) -> ReportQuestion:
    """Return context and batch of the newest run on the dataset; else the longest context of the base, up to 1,024."""
    limit = _longest(ctx, source)
    with ctx.db.read() as session:
        query = select(Run.config).join(DatasetVersion, DatasetVersion.id == Run.dataset_version_id)
        config = session.scalar(
            query.where(DatasetVersion.dataset_id == version.dataset_id).order_by(Run.created_at.desc()).limit(1)
        )
    known = (
        {name: getattr(config, name) for name in ReportQuestion.model_fields if name in RunConfig.model_fields}
        if config
        else {"context": MAX_DEFAULT}
    )
    return ReportQuestion(**{**known, "context": min(int(known["context"]), limit or int(known["context"]))})


def _longest(ctx: Context, source: TokenizerSource | None) -> int | None:
    if source is None or source.kind != "checkpoint":
        return None
    context = get_checkpoint(ctx, source.id).facts.context
    return int(context) if context else None


def request_data_report(
    ctx: Context,
    dataset: str,
    *,
    person: Person,
    source: str | None = None,
    context: int | None = None,
    micro_batch: int | None = None,
    grad_accum_steps: int | None = None,
    again: bool = False,
) -> DataReportView:
    """Queue a report on a dataset (`name`, `name@3` or a version's id) as the trainer reads it.

    `source` names a base or a tokenizer ("checkpoint:ID", "tokenizer:ID", or a name); by default `default_source`, or
    plain bytes without one. A stored or running report on the same request is returned as `reused`, unless `again`.
    Raises InvalidInput for numbers out of range or a context that the base can't read, NotFound, Conflict, NotAllowed.
    """
    require_builder(person)
    version = resolve_version(ctx, dataset)
    through = resolve_source(ctx, source) if source else default_source(ctx, version.kind)
    values = {"context": context, "micro_batch": micro_batch, "grad_accum_steps": grad_accum_steps}
    chosen = {name: value for name, value in values.items() if value is not None}
    question = read_values(ReportQuestion, default_question(ctx, version, through).model_dump() | chosen)
    limit = _longest(ctx, through)
    if limit is not None and through is not None and question.context > limit:
        raise InvalidInput(
            f"“{through.name}” reads at most {limit:,} tokens, and context is {question.context:,}.",
            remedy=f"Choose a context of at most {limit:,}.",
            field="context",
        )
    benchmarks = _benchmarks(ctx, version)
    fingerprint = _fingerprint(version, through, question, benchmarks)
    with ctx.db.write() as session:
        answered = None if again else _answered(session, fingerprint)
        report_id = answered or _add(
            session, ctx, version, through, question, benchmarks, fingerprint=fingerprint, person=person
        )
    if answered is None:
        wake(ctx, "cpu")
    return replace(get_data_report(ctx, report_id), reused=answered is not None)


def _benchmarks(ctx: Context, version: VersionView) -> list[VersionView]:
    """Return the newest version of every imported benchmark other than the dataset itself."""
    newest = [dataset.newest for dataset in list_datasets(ctx, kinds=("benchmark",), ready=True)]
    return [view for view in newest if view is not None and view.dataset_id != version.dataset_id]


def _fingerprint(
    version: VersionView, source: TokenizerSource | None, question: ReportQuestion, benchmarks: Sequence[VersionView]
) -> str:
    question_key = [
        FORMAT,
        version.id,
        source.ref if source else None,
        question.model_dump(),
        sorted(benchmark.id for benchmark in benchmarks),
    ]
    return hashlib.sha256(json.dumps(question_key).encode()).hexdigest()


def _answered(session: Session, fingerprint: str) -> str | None:
    query = select(Analysis.id).join(Job, Job.id == Analysis.job_id)
    query = query.where(Analysis.kind == KIND, Analysis.config["fingerprint"].as_string() == fingerprint)
    return session.scalar(
        query.where(Job.status.in_([*ACTIVE, Status.FINISHED])).order_by(Analysis.created_at.desc()).limit(1)
    )


def _add(
    session: Session,
    ctx: Context,
    version: VersionView,
    source: TokenizerSource | None,
    question: ReportQuestion,
    benchmarks: Sequence[VersionView],
    *,
    fingerprint: str,
    person: Person,
) -> str:
    report_id = new_id()
    name = source.name if source else "bytes"
    payload = DataReportPayload(
        dataset=require_folder(version.folder, what="dataset"),
        dataset_kind=DatasetKind(version.kind),
        tokenizer=source.folder if source else None,
        tokenizer_name=name,
        bytes_per_token=source.bytes_per_token if source else None,
        question=question,
        benchmarks=tuple(NamedFolder(name=each.dataset, folder=each.folder) for each in benchmarks if each.folder),
        out=f"reports/{report_id}",
    )
    job = add_job(
        session,
        ctx,
        payload,
        title=f"Report on {version.label}",
        device="cpu",
        priority=3,
        created_by=person.id,
    )
    session.add(
        Analysis(
            id=report_id,
            kind=KIND,
            job_id=job.id,
            dataset_version_id=version.id,
            tokenizer_id=source.id if source and source.kind == "tokenizer" else None,
            checkpoint_id=source.id if source and source.kind == "checkpoint" else None,
            config={
                "question": question.model_dump(),
                "source": source.ref if source else None,
                "source_name": name,
                "fingerprint": fingerprint,
                "format": FORMAT,
                "benchmarks": [benchmark.id for benchmark in benchmarks],
            },
            created_by=person.id,
            created_at=ctx.now(),
        )
    )
    session.flush()
    return report_id


def get_data_report(ctx: Context, report_id: str) -> DataReportView:
    """Return one report. Raises NotFound."""
    with ctx.db.read() as session:
        remedy = "It may have been deleted; run it again."
        return _view(session, find_row(session, Analysis, report_id, what="report", remedy=remedy, kind=KIND))


def list_data_reports(ctx: Context, version_id: str, *, limit: int = 30) -> list[DataReportView]:
    """Return the reports on a version, newest first. Stopped ones are left out."""
    query = _newest_of(version_id).where(Job.status != Status.CANCELLED)
    with ctx.db.read() as session:
        return [_view(session, row) for row in session.scalars(query.limit(limit))]


def find_data_report(
    ctx: Context, version_id: str, *, source: str | None, context: int | None = None
) -> DataReportView | None:
    """Return the newest finished report on a version with a tokenizer and a context, by default any; or None."""
    query = _newest_of(version_id).where(
        Job.status == Status.FINISHED,
        Analysis.config["format"].as_integer() == FORMAT,
        Analysis.config["source"].as_string() == source,
    )
    if context is not None:
        query = query.where(Analysis.config["question", "context"].as_integer() == context)
    with ctx.db.read() as session:
        row = session.scalar(query.limit(1))
        return _view(session, row) if row is not None else None


def _newest_of(version_id: str) -> Select[Analysis]:
    query = select(Analysis).join(Job, Job.id == Analysis.job_id)
    query = query.where(Analysis.kind == KIND, Analysis.dataset_version_id == version_id)
    return query.order_by(Analysis.created_at.desc(), Analysis.id)


def read_samples(ctx: Context, view: DataReportView) -> list[ReportSample]:
    """Return the rows that a report shows token by token. Raises NotFound if its files are gone."""
    return _SAMPLES.validate_json(_read(ctx, view, "samples.json"))


def read_row_tokens(ctx: Context, view: DataReportView) -> npt.NDArray[np.int32] | None:
    """Return the tokens of each row, train before validation, as a finished report counted them; None of a report of an
    earlier release, which did not keep them.
    """
    path = ctx.artifacts.path(f"{view.folder}/{ROW_TOKENS}") if view.folder else None
    return np.memmap(path, dtype=np.int32, mode="r") if path is not None and path.is_file() else None


def drop_change(ctx: Context, view: DataReportView, reason: str) -> DropRows | None:
    """Return the rows that a finding would drop, as a change; None if there are none. Raises InvalidInput."""
    if reason not in REASONS:
        raise InvalidInput(
            f"There is no finding {reason!r}.", remedy=f"Choose one of {', '.join(REASONS)}.", field="reason"
        )
    rows = json.loads(_read(ctx, view, "rows.json")).get(reason) or {"train": [], "val": []}
    if not rows["train"] and not rows["val"]:
        return None
    return DropRows(train=tuple(rows["train"]), val=tuple(rows["val"]), reason=REASONS[reason])


def drop_found_rows(
    ctx: Context, report_id: str, reason: str, *, person: Person, idempotency_key: str | None = None
) -> VersionView:
    """Queue a new version without the rows of a finding. Raises Conflict without any, or if no train row is left."""
    view = get_data_report(ctx, report_id)
    change = drop_change(ctx, view, reason)
    if change is None:
        raise Conflict("There is no such row to drop.")
    if view.report is not None and len(change.train) >= view.report.train.rows:
        raise Conflict("Nothing would be left to train on.", remedy="Import other rows, or choose a longer context.")
    return derive_version(ctx, view.version_id, change=change, person=person, idempotency_key=idempotency_key)


def _read(ctx: Context, view: DataReportView, name: str) -> str:
    path = ctx.artifacts.path(f"{view.folder}/{name}") if view.folder else None
    if path is None or not path.is_file():
        raise NotFound("The report's files are missing.", remedy="Run the report again.")
    return path.read_text(encoding="utf-8")


def delete_data_report(ctx: Context, report_id: str, *, person: Person) -> None:
    """Delete a report with its files; one that is being made is stopped. Raises NotFound, NotAllowed."""
    require_builder(person)
    view = get_data_report(ctx, report_id)
    if view.is_active and view.job_id:
        request_stop(ctx, view.job_id)
    with ctx.db.write() as session:
        row = session.get(Analysis, report_id)
        if row is not None:
            session.delete(row)
    ctx.artifacts.remove(f"reports/{report_id}")


def record_data_report(
    session: Session, ctx: Context, claim: Claim[DataReportPayload], result: DataReportResult
) -> None:
    """Store a finished report's result. The files of one that was deleted meanwhile are removed."""
    row = session.scalar(select(Analysis).where(Analysis.job_id == claim.job_id))
    if row is None:
        ctx.artifacts.remove(result.folder)
        return
    row.folder = result.folder
    row.result = json.loads(ctx.artifacts.path(f"{row.folder}/report.json").read_text(encoding="utf-8"))


def _view(session: Session, row: Analysis) -> DataReportView:
    job = session.get(Job, row.job_id) if row.job_id else None
    version = session.get_one(DatasetVersion, row.dataset_version_id)
    dataset = session.get_one(Dataset, version.dataset_id)
    readable = bool(row.result) and row.config.get("format") == FORMAT
    return view_of(
        DataReportView,
        row,
        version_id=version.id,
        dataset_id=dataset.id,
        version=f"{dataset.name}@{version.number}",
        **job_state(job),
        source=row.config.get("source"),
        source_name=row.config.get("source_name", ""),
        question=read_stored(ReportQuestion, row.config["question"]),
        report=DataReport.model_validate(row.result) if readable else None,
    )


RATE_POINTS = 200
RATE_RUNS = 20


@dataclass(frozen=True)
class EpochTime:
    """Seconds of one epoch at `tokens_per_s`, the rate of the run `run` (in fine-tuning, of trained tokens)."""

    seconds: float
    tokens_per_s: float
    run: str


def epoch_time(ctx: Context, view: DataReportView) -> EpochTime | None:
    """Return the time of an epoch; None without a measured run with this base or tokenizer."""
    report = view.report
    if report is None or view.source is None or not report.epoch.steps:
        return None
    kind, _, identity = view.source.partition(":")
    mine = Run.base_id == identity if kind == "checkpoint" else Run.tokenizer_id == identity
    runs = (
        select(Run)
        .join(Job, Job.id == Run.job_id)
        .where(mine, Run.objective == report.trainer, Job.status == Status.FINISHED)
    )
    with ctx.db.read() as session:
        for run in session.scalars(runs.order_by(Job.finished_at.desc()).limit(RATE_RUNS)):
            points = select(MetricPoint.value).join(MetricName, MetricName.id == MetricPoint.name_id)
            points = points.where(MetricPoint.run_id == run.id, MetricName.name == "tok_per_sec")
            rates = session.scalars(points.order_by(MetricPoint.step.desc()).limit(RATE_POINTS)).all()
            if rates and (rate := median(rates)) > 0:
                # the rate of fine-tuning counts trained tokens; that of other objectives, all tokens
                tokens = report.train.loss_tokens if report.trainer == "sft" else report.epoch.tokens
                return EpochTime(tokens / rate, rate, run.name)
    return None
