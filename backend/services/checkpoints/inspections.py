"""Inspect checkpoints on a text, or their weights. The same request returns the stored inspection; its results are
arrays and texts in a folder, read without pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.tables import Analysis, Checkpoint, Job
from backend.domain.attributes import view_of
from backend.domain.checkpoints.inspection import (
    CHANGE_ARRAYS,
    TENSOR_ARRAYS,
    InspectionConfig,
    InspectionSummary,
    TensorChange,
    TensorStatistics,
    inspection_fingerprint,
)
from backend.domain.jobs.payloads import InspectPayload
from backend.domain.jobs.results import InspectResult
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.validation import read_stored
from backend.domain.wording import shorten
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.files.paths import find_path
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import JobState, add_job, job_state, request_stop, wake
from backend.services.lookups import find_row

_NUMBERS, _WORDS = "numbers.npz", "words.json"


@dataclass(frozen=True, kw_only=True)
class InspectionView(JobState):
    """An inspection. `other` is that compared with; `result` is the job's summary, `folder` holds the arrays."""

    id: str
    checkpoint_id: str | None
    checkpoint: str
    other_id: str | None
    other: str | None
    config: InspectionConfig
    job_id: str | None
    result: InspectionSummary
    folder: str | None
    created_at: datetime
    reused: bool = False  # the launch returned a stored or running inspection of the same request

    @property
    def is_ready(self) -> bool:
        """Return whether its results exist."""
        return self.folder is not None and self.status is Status.FINISHED

    @property
    def label(self) -> str:
        """The beginning of the text, or `weights`."""
        if not self.config.of_text:
            return "weights"
        text = self.config.text or self.config.messages[-1].content
        return shorten(" ".join(text.split()), 60)


@dataclass(frozen=True)
class _Subject:
    id: str | None
    name: str
    folder: str
    identity: str


def launch_inspection(
    ctx: Context,
    *,
    checkpoint: str,
    config: InspectionConfig,
    person: Person,
    against: str | None = None,
    again: bool = False,
) -> InspectionView:
    """Start an inspection of a checkpoint (name, id, or a folder of this machine), compared with `against` if given.

    A stored or running inspection of the same request is returned as `reused`, unless `again`. Raises NotFound,
    Conflict if a checkpoint's files were deleted, InvalidInput for a blank text, NotAllowed, also for a folder named by
    an account.
    """
    require_builder(person)
    if config.of_text and not any(
        part.strip() for part in (config.text, *(message.content for message in config.messages))
    ):
        raise InvalidInput("The text is empty.", remedy="Type a text to analyze.", field="text")
    subject, other = _subject(ctx, checkpoint), _subject(ctx, against) if against else None
    if person.id is not None and any(one is not None and one.id is None for one in (subject, other)):
        raise NotAllowed(
            "Accounts inspect checkpoints, not folders of the server.", remedy="Add the folder as a base first."
        )
    fingerprint = inspection_fingerprint(config, subject=subject.identity, other=other.identity if other else None)
    with ctx.db.write() as session:
        existing_id = None if again else _already_there(session, ctx, fingerprint)
        inspection_id = existing_id or _add_inspection(
            session, ctx, config, subject=subject, other=other, fingerprint=fingerprint, person=person
        )
    if existing_id is None:
        wake(ctx, "eval")
    return replace(get_inspection(ctx, inspection_id), reused=existing_id is not None)


def _subject(ctx: Context, name_or_folder: str) -> _Subject:
    try:
        checkpoint = resolve_checkpoint(ctx, name_or_folder)
    except NotFound:
        path = find_path(name_or_folder)
        files = sorted(path.glob("*.safetensors")) if path is not None else []
        if path is None or not files:
            raise
        path = path.resolve()
        changed = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return _Subject(None, path.name, str(path), f"{path}:{changed}")
    if checkpoint.folder is None:
        raise Conflict(f"The files of “{checkpoint.name}” were deleted.", field="checkpoint")
    return _Subject(checkpoint.id, checkpoint.name, checkpoint.folder, checkpoint.id)


def _already_there(session: Session, ctx: Context, fingerprint: str) -> str | None:
    query = (
        select(Analysis, Job.status)
        .join(Job, Job.id == Analysis.job_id)
        .where(
            Analysis.kind == JobKind.INSPECT,
            Analysis.config["fingerprint"].as_string() == fingerprint,
            Job.status.in_([*ACTIVE, Status.FINISHED]),
        )
        .order_by(Analysis.created_at.desc())
    )
    for row, status in session.execute(query):
        if status != Status.FINISHED or (row.folder and ctx.artifacts.path(f"{row.folder}/{_NUMBERS}").is_file()):
            return row.id
    return None


def _add_inspection(
    session: Session,
    ctx: Context,
    config: InspectionConfig,
    *,
    subject: _Subject,
    other: _Subject | None,
    fingerprint: str,
    person: Person,
) -> str:
    inspection_id, stored = new_id(), config.model_dump(mode="json")
    compared = f" and {other.name}" if other else ""
    content = "text" if config.of_text else "weights"
    job = add_job(
        session,
        ctx,
        InspectPayload(
            checkpoint=subject.folder,
            other=other.folder if other else None,
            config=config,
            out=f"inspections/{inspection_id}",
        ),
        title=f"Inspect {subject.name}{compared}: {content}",
        priority=3,
        created_by=person.id,
    )
    session.add(
        Analysis(
            id=inspection_id,
            kind=JobKind.INSPECT.value,
            job_id=job.id,
            checkpoint_id=subject.id,
            other_checkpoint_id=other.id if other else None,
            config={
                "asked": stored,
                "fingerprint": fingerprint,
                "names": [subject.name, other.name if other else None],
            },
            created_by=person.id,
            created_at=ctx.now(),
        )
    )
    session.flush()
    return inspection_id


def get_inspection(ctx: Context, inspection_id: str) -> InspectionView:
    """Return an inspection. Raises NotFound."""
    with ctx.db.read() as session:
        remedy = "It may have been deleted; analyze the text again."
        row = find_row(session, Analysis, inspection_id, what="inspection", remedy=remedy, kind=JobKind.INSPECT)
        return _views(session, [row])[0]


def list_inspections(ctx: Context, checkpoint_id: str) -> list[InspectionView]:
    """Return the inspections that involve a checkpoint, newest first."""
    mine = or_(Analysis.checkpoint_id == checkpoint_id, Analysis.other_checkpoint_id == checkpoint_id)
    query = (
        select(Analysis)
        .where(Analysis.kind == JobKind.INSPECT, mine)
        .order_by(Analysis.created_at.desc(), Analysis.id)
        .limit(30)
    )
    with ctx.db.read() as session:
        return _views(session, list(session.scalars(query)))


def find_inspection(
    ctx: Context, *, checkpoint: str, config: InspectionConfig, against: str | None = None
) -> InspectionView | None:
    """Return the newest inspection of a request, finished or not, or None. Starts nothing."""
    subject, other = _subject(ctx, checkpoint), _subject(ctx, against) if against else None
    fingerprint = inspection_fingerprint(config, subject=subject.identity, other=other.identity if other else None)
    query = select(Analysis).where(
        Analysis.kind == JobKind.INSPECT, Analysis.config["fingerprint"].as_string() == fingerprint
    )
    with ctx.db.read() as session:
        row = session.scalar(query.order_by(Analysis.created_at.desc()).limit(1))
        return _views(session, [row])[0] if row is not None else None


def delete_inspection(ctx: Context, inspection_id: str, *, person: Person) -> None:
    """Delete an inspection with its files, stopping it if it runs. Raises NotFound, NotAllowed."""
    require_builder(person)
    inspection = get_inspection(ctx, inspection_id)
    if inspection.is_active and inspection.job_id:
        request_stop(ctx, inspection.job_id)
    with ctx.db.write() as session:
        row = session.get(Analysis, inspection_id)
        if row is not None:
            session.delete(row)
    ctx.artifacts.remove(inspection.folder or f"inspections/{inspection.id}")  # older ones lie in readings/


def record_inspection(session: Session, ctx: Context, claim: Claim[InspectPayload], result: InspectResult) -> None:
    """Store the results of a finished inspection; remove its files if it was deleted meanwhile."""
    row = session.scalar(select(Analysis).where(Analysis.job_id == claim.job_id))
    if row is None:
        ctx.artifacts.remove(result.folder)
        return
    row.folder = result.folder
    row.result = result.model_dump(mode="json", exclude={"folder"}, exclude_unset=True)


def _views(session: Session, rows: Sequence[Analysis]) -> list[InspectionView]:
    ids = {part for row in rows for part in (row.checkpoint_id, row.other_checkpoint_id) if part}
    names = dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(ids))).all())
    jobs = {
        job.id: job
        for job in session.scalars(select(Job).where(Job.id.in_({row.job_id for row in rows if row.job_id})))
    }
    views = []
    for row in rows:
        job = jobs.get(row.job_id or "")
        first, second = row.config["names"]
        views.append(
            view_of(
                InspectionView,
                row,
                checkpoint=names.get(row.checkpoint_id or "", first),
                other_id=row.other_checkpoint_id,
                other=names.get(row.other_checkpoint_id or "", second),
                config=read_stored(InspectionConfig, row.config["asked"]),
                **job_state(job),
                result=dict(row.result),
            )
        )
    return views


Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Alternative:
    """A candidate token at a position."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class TokenLine:
    """One token of the text. `surprisal` (nats) and `rank` are None for the first, which is not predicted.

    `expected` are the network's predictions at this position, most likely first; `special` marks a special token.
    """

    position: int
    id: int
    text: str
    special: bool
    trained: bool | None
    surprisal: float | None
    rank: int | None
    expected: tuple[Alternative, ...]

    @property
    def bits(self) -> float | None:
        """The surprisal in bits."""
        return None if self.surprisal is None else self.surprisal / math.log(2)


class InspectionResults:
    """Results of a finished inspection; arrays are read on access. Raises NotFound if the files were deleted."""

    def __init__(self, ctx: Context, inspection: InspectionView) -> None:
        self.inspection = inspection
        folder = ctx.artifacts.path(inspection.folder or f"inspections/{inspection.id}")
        self._arrays = folder / _NUMBERS
        if not self._arrays.is_file() or not (folder / _WORDS).is_file():
            raise NotFound("The files of this inspection were deleted.", remedy="Analyze the text again.")
        self._metadata: dict[str, Any] = json.loads((folder / _WORDS).read_text(encoding="utf-8"))

    def array(self, name: str) -> Array:
        """Return an array. Raises NotFound if the inspection has none of that name."""
        with np.load(self._arrays, allow_pickle=False) as file:
            if name not in file.files:
                raise NotFound(f"This inspection has no {name.replace('_', ' ')}.")
            values: Array = file[name]
            return values

    def label(self, token: int) -> str:
        """Return the text of a token."""
        return str(self._metadata["labels"].get(str(int(token)), f"[{int(token)}]"))

    @cached_property
    def ids(self) -> list[int]:
        """The token ids of the text."""
        return [int(token) for token in self.array("ids")]

    @cached_property
    def labels(self) -> list[str]:
        """The tokens of the text."""
        return [self.label(token) for token in self.ids]

    def alternatives(self, *, prefix: str = "") -> list[tuple[Alternative, ...]]:
        """Return the predictions after each token; prefix `other_` selects the other network."""
        ids, probabilities = self.array(f"{prefix}top_ids"), self.array(f"{prefix}top_p")
        return [self._alternatives(row, ps) for row, ps in zip(ids, probabilities, strict=True)]

    def _alternatives(self, ids: Iterable[int], probabilities: Iterable[float]) -> tuple[Alternative, ...]:
        return tuple(Alternative(int(i), self.label(i), float(p)) for i, p in zip(ids, probabilities, strict=True))

    def tokens(self) -> list[TokenLine]:
        """Return the tokens with the predictions at their positions."""
        surprisal, rank = self.array("surprisal"), self.array("rank")
        expected: list[tuple[Alternative, ...]] = [(), *self.alternatives()[:-1]]
        special = set(self.inspection.result["facts"]["special"])
        trained = self.array("trained")
        return [
            TokenLine(
                position=place,
                id=token,
                text=self.labels[place],
                special=place in special,
                trained=bool(trained[place]) if len(trained) else None,
                surprisal=_finite(surprisal[place]),
                rank=int(rank[place]) or None,
                expected=expected[place],
            )
            for place, token in enumerate(self.ids)
        ]

    def attention(self, layer: int) -> Array:
        """Return a layer's attention maps, [heads, queries, keys], fp32."""
        return self.array(f"attention_{layer}")

    @cached_property
    def spans(self) -> list[str]:
        """Spans of text over which two networks with different vocabularies are compared."""
        return [str(span) for span in self._metadata.get("spans", [])]

    def tensors(self) -> list[TensorStatistics]:
        """Return the statistics of the tensors."""
        return [
            TensorStatistics(**values | {"shape": tuple(values["shape"]), "spectral": _finite(values["spectral"])})
            for values in self._joined("tensors", TENSOR_ARRAYS)
        ]

    @property
    def outliers(self) -> list[tuple[str, str]]:
        """(tensor, reason) of the outliers, most severe first."""
        return [(str(entry["name"]), str(entry["text"])) for entry in self._metadata["outliers"]]

    def changes(self) -> list[TensorChange]:
        """Return the changes of the tensors that both checkpoints have in the same shape."""
        return [TensorChange(**values) for values in self._joined("changes", CHANGE_ARRAYS)]

    def _joined(self, texts: str, arrays: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Return the fields of each row, of texts and of arrays."""
        columns = {name: self.array(name) for name in arrays}
        for number, row in enumerate(self._metadata[texts]):
            numbers = {name: column[number] for name, column in columns.items()}
            yield row | {name: value if value.ndim else value.item() for name, value in numbers.items()}

    @property
    def missing(self) -> dict[str, list[str]]:
        """The tensors without a counterpart: `only_first`, `only_other`, and `unlike` in shape."""
        return {name: [str(part) for part in parts] for name, parts in self._metadata["missing"].items()}


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
