"""Tokenizer reports: queue one, read the results, delete it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Analysis, Job
from backend.domain.jobs.payloads import require_folder
from backend.domain.jobs.reports import NamedFolder, TokenizerReportPayload
from backend.domain.jobs.results import MeasuredDataset, MeasuredTokenizer, TokenizerReportResult
from backend.domain.jobs.states import JobKind
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.views import version_labels
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import JobState, add_job, job_state, wake
from backend.services.lookups import find_row
from backend.services.tokenizers.sources import TokenizerSource, resolve_source

KIND = JobKind.TOKENIZER_REPORT.value
MAX_TOKENIZERS, MAX_DATASETS = 12, 12


@dataclass(frozen=True)
class Measure:
    """One tokenizer on one dataset, for one language (None: all of them). Counts and ratios as in
    backend.domain.tokenizers.counts.
    """

    tokenizer: str
    dataset: str
    language: str | None
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ReportView(JobState):
    """A report. `refs` name the tokenizers as `resolve_source` does.

    `tokenizers` and `datasets` hold the job's facts by name; empty until it has finished.
    """

    id: str
    job_id: str | None
    names: tuple[str, ...]
    refs: tuple[str, ...]
    dataset_names: tuple[str, ...]
    tokenizers: list[MeasuredTokenizer]
    datasets: list[MeasuredDataset]
    measures: list[Measure]
    created_at: datetime

    @property
    def is_ready(self) -> bool:
        """Return whether its measures exist."""
        return bool(self.measures)

    @property
    def title(self) -> str:
        """Tokenizers and datasets of the report."""
        return f"{', '.join(self.names)} on {', '.join(self.dataset_names)}"


@retry_races
def request_report(
    ctx: Context,
    *,
    tokenizers: Sequence[str],
    datasets: Sequence[str],
    person: Person,
    idempotency_key: str | None = None,
) -> ReportView:
    """Queue a report on tokenizers (references, names of tokenizers or checkpoints) over datasets (`name` or
    `name@version`).

    Raises InvalidInput for none or too many, NotFound or Conflict for a missing dataset or tokenizer.
    """
    require_builder(person)
    sources = list({source.ref: source for source in (resolve_source(ctx, text) for text in tokenizers)}.values())
    if not 1 <= len(sources) <= MAX_TOKENIZERS:
        raise InvalidInput(
            f"{len(sources)} tokenizers can't be compared.",
            remedy=f"Choose 1 to {MAX_TOKENIZERS}.",
            field="tokenizers",
        )
    versions = {version.id: version for version in (resolve_version(ctx, name) for name in datasets)}
    if not 1 <= len(versions) <= MAX_DATASETS:
        raise InvalidInput(
            f"{len(versions)} datasets can't be read.", remedy=f"Choose 1 to {MAX_DATASETS}.", field="datasets"
        )
    chosen = list(versions.values())
    names = _names(sources)
    payload = TokenizerReportPayload(
        tokenizers=tuple(
            NamedFolder(name=name, folder=source.folder) for name, source in zip(names, sources, strict=True)
        ),
        datasets=tuple(
            NamedFolder(name=version.label, folder=require_folder(version.folder, what="dataset")) for version in chosen
        ),
    )
    with ctx.db.write() as session:
        if idempotency_key and (
            again := session.scalar(
                select(Analysis).join(Job, Job.id == Analysis.job_id).where(Job.idempotency_key == idempotency_key)
            )
        ):
            return _view(session, again)
        title = f"Compare tokenizers {', '.join(names)}" if len(names) > 1 else f"Measure tokenizer {names[0]}"
        job = add_job(
            session,
            ctx,
            payload,
            title=title,
            device="cpu",
            priority=3,
            idempotency_key=idempotency_key,
            created_by=person.id,
        )
        own = next((source.id for source in sources if source.kind == "tokenizer"), None)
        base = next((source.id for source in sources if source.kind == "checkpoint"), None)
        row = Analysis(
            id=new_id(),
            kind=KIND,
            job_id=job.id,
            tokenizer_id=own,
            checkpoint_id=base,
            dataset_version_id=chosen[0].id,
            config={
                "tokenizers": names,
                "refs": [source.ref for source in sources],
                "datasets": [version.label for version in chosen],
                "version_ids": [version.id for version in chosen],
            },
            created_by=person.id,
            created_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        result = _view(session, row)
    wake(ctx, "cpu")
    return result


def list_reports(ctx: Context) -> list[ReportView]:
    """Return reports, newest first."""
    with ctx.db.read() as session:
        query = (
            select(Analysis).where(Analysis.kind == KIND).order_by(Analysis.created_at.desc(), Analysis.id).limit(50)
        )
        return [_view(session, row) for row in session.scalars(query)]


def get_report(ctx: Context, report_id: str) -> ReportView:
    """Return a report. Raises NotFound."""
    with ctx.db.read() as session:
        return _view(session, _find(session, report_id))


def delete_report(ctx: Context, report_id: str, *, person: Person) -> None:
    """Delete a report. Raises Conflict while it is being measured."""
    require_builder(person)
    with ctx.db.write() as session:
        row = _find(session, report_id)
        if _view(session, row).is_active:
            raise Conflict("The report is being measured.", remedy="Wait for its job, or stop it first.")
        session.delete(row)


def record_report(
    session: Session, ctx: Context, claim: Claim[TokenizerReportPayload], result: TokenizerReportResult
) -> None:
    """Store the job's measures, unless the report was deleted meanwhile."""
    row = session.scalar(select(Analysis).where(Analysis.job_id == claim.job_id))
    if row is not None:
        row.result = result.model_dump(mode="json", include={"tokenizers", "datasets", "measures"})


def _names(sources: list[TokenizerSource]) -> list[str]:
    """Return the names, made unique where a tokenizer and a checkpoint share one."""
    names = [source.name for source in sources]
    return [f"{s.name} ({s.kind})" if names.count(s.name) > 1 else s.name for s in sources]


def _find(session: Session, report_id: str) -> Analysis:
    remedy = "See the Tokenizers page for those there are."
    return find_row(session, Analysis, report_id, what="report", remedy=remedy, kind=KIND)


def _view(session: Session, row: Analysis) -> ReportView:
    job = session.get(Job, row.job_id) if row.job_id else None
    result, names, datasets = row.result or {}, row.config.get("tokenizers", []), _datasets_now(session, row.config)
    measures = [
        Measure(
            names[item["tokenizer"]],
            datasets[item["dataset"]],
            item["language"],
            {key: value for key, value in item.items() if key not in ("tokenizer", "dataset", "language")},
        )
        for item in result.get("measures", [])
    ]
    return ReportView(
        id=row.id,
        job_id=row.job_id,
        **job_state(job),
        names=tuple(names),
        refs=tuple(row.config.get("refs", [])),
        dataset_names=tuple(datasets),
        tokenizers=[MeasuredTokenizer.model_validate(entry) for entry in result.get("tokenizers", [])],
        datasets=[
            MeasuredDataset.model_validate({**entry, "name": name})
            for entry, name in zip(result.get("datasets", []), datasets, strict=False)
        ],
        measures=measures,
        created_at=row.created_at,
    )


def _datasets_now(session: Session, config: Mapping[str, list[str]]) -> list[str]:
    """Return the current names of the datasets; a deleted one keeps its old name."""
    then, ids = config.get("datasets", []), config.get("version_ids", [])
    now = version_labels(session, ids)
    return [now.get(id_, name) for id_, name in zip(ids, then, strict=True)] if ids else then
