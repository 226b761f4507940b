"""Views of datasets and their versions, and look-ups of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Dataset, DatasetVersion, Job
from backend.domain.attributes import view_of
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.problem import RejectedRow
from backend.domain.data.versions.provenance import Provenance
from backend.domain.jobs.results import VersionFacts
from backend.domain.jobs.states import ACTIVE
from backend.domain.wording import plural
from backend.errors import NotFound
from backend.services.jobs.jobs import JobState, job_state
from backend.services.lookups import find_named


@dataclass(frozen=True, kw_only=True)
class VersionView(JobState):
    """One version. Counts are zero and `folder` is None until its import has finished; `status` is its import's."""

    id: str
    dataset_id: str
    dataset: str
    kind: str
    number: int
    job_id: str | None
    content_hash: str | None
    folder: str | None
    source: str
    mapping: dict[str, str]
    rows: int
    train_rows: int
    val_rows: int
    rejected_rows: int
    rejected: list[RejectedRow]
    bytes: int
    facts: VersionFacts
    provenance: Provenance
    created_at: datetime
    parent_id: str | None = None  # the version it was made from
    reused: bool = False  # the content existed already

    @property
    def label(self) -> str:
        """`name@3`, as configs refer to it."""
        return f"{self.dataset}@{self.number}"

    @property
    def is_ready(self) -> bool:
        """Return whether its rows are written."""
        return self.folder is not None

    @property
    def is_one_text(self) -> bool:
        """Return whether it is a single text, whose last part is the validation split."""
        return self.kind == DatasetKind.TEXT and self.rows == 1

    @property
    def is_cut(self) -> bool:
        """Return whether it is of texts whose last parts are the validation split."""
        return self.train_rows + self.val_rows > self.rows

    @property
    def amount(self) -> str:
        """Its size in rows: `1 text`, `1,200 rows`."""
        return plural(self.rows, "text" if self.is_one_text or self.is_cut else "row")

    @property
    def is_importing(self) -> bool:
        """Return whether its job has not ended."""
        return self.folder is None and self.status in ACTIVE


@dataclass(frozen=True)
class DatasetView:
    """A dataset with its versions, newest first."""

    id: str
    name: str
    kind: str
    notes: str
    created_at: datetime
    archived_at: datetime | None
    versions: tuple[VersionView, ...]

    @property
    def newest(self) -> VersionView | None:
        """The newest version with rows, else the newest."""
        return next((v for v in self.versions if v.is_ready), self.versions[0] if self.versions else None)


def find_dataset(session: Session, name_or_id: str) -> Dataset:
    """Return the row of a dataset by name or id. Raises NotFound with similar names."""
    remedy = "See `roundhouse data list`, or import one on the Datasets page."
    return find_named(session, Dataset, name_or_id, what="dataset", remedy=remedy)


def pick_version(view: DatasetView, number: str) -> VersionView:
    """Return a version by its number, or the newest with rows. Raises NotFound."""
    if not number:
        if view.newest is None:
            raise NotFound(f"“{view.name}” has no version.", remedy="Import one on the Datasets page.", field="dataset")
        return view.newest
    for version in view.versions:
        if str(version.number) == number:
            return version
    have = ", ".join(str(v.number) for v in reversed(view.versions)) or "none"
    raise NotFound(f"“{view.name}” has no version {number}.", remedy=f"It has {have}.", field="dataset")


def version_job(session: Session, version: DatasetVersion) -> Job | None:
    """Return the job that makes or made a version."""
    return session.get(Job, version.job_id) if version.job_id else None


def version_labels(session: Session, version_ids: Iterable[str]) -> dict[str, str]:
    """Return the current labels of versions (`name@3`) by id, without deleted ones."""
    query = select(DatasetVersion.id, Dataset.name, DatasetVersion.number).join(
        Dataset, Dataset.id == DatasetVersion.dataset_id
    )
    rows = session.execute(query.where(DatasetVersion.id.in_(list(version_ids))))
    return {id_: f"{name}@{number}" for id_, name, number in rows}


def dataset_views(session: Session, datasets: Sequence[Dataset]) -> list[DatasetView]:
    """Copy datasets and their versions into views that outlive the session."""
    query = select(DatasetVersion, Job).outerjoin(Job, Job.id == DatasetVersion.job_id)
    query = query.where(DatasetVersion.dataset_id.in_([dataset.id for dataset in datasets])).order_by(
        DatasetVersion.number.desc()
    )
    versions: dict[str, list[tuple[DatasetVersion, Job]]] = {}
    for row, job in session.execute(query):
        versions.setdefault(row.dataset_id, []).append((row, job))
    return [
        view_of(DatasetView, one, versions=tuple(version_view(row, one, job) for row, job in versions.get(one.id, [])))
        for one in datasets
    ]


def version_view(row: DatasetVersion, dataset: Dataset, job: Job | None) -> VersionView:
    """Copy a version into a view that outlives the session."""
    return view_of(
        VersionView,
        row,
        dataset_id=dataset.id,
        dataset=dataset.name,
        kind=dataset.kind,
        **job_state(job, is_made=bool(row.folder)),
    )
