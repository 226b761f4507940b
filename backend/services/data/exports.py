"""Exports of dataset versions: folders for other tools, and pushes to a Hub. A job writes them."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.races import retry_races
from backend.db.tables import Job
from backend.domain.data.export_formats import DATASET_FORMATS
from backend.domain.jobs.payloads import DatasetExportPayload, HubTarget, require_folder
from backend.domain.jobs.states import JobKind
from backend.errors import InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.data.cards import render_card
from backend.services.data.datasets import resolve_version
from backend.services.jobs.exports import HUB_ID, ExportView, queue_export, view_export
from backend.services.jobs.jobs import JobView, view

MAX_SHOWN = 50


@retry_races
def export_version(
    ctx: Context,
    reference: str,
    *,
    format: str,
    person: Person,
    push: str = "",
    private: bool = True,
) -> JobView:
    """Queue an export of `name`, `name@3` or a version's id; its job writes a folder under `exports/`, named in its
    result. `push` is a dataset repository (owner/name) of the Hub to upload the rows to as well, as Parquet, with the
    worker's HF_TOKEN; a new one is `private`. Raises InvalidInput for another format or no repository id, NotFound,
    Conflict, NotAllowed.
    """
    require_builder(person)
    version = resolve_version(ctx, reference)
    if format not in DATASET_FORMATS:
        raise InvalidInput(
            f"There is no export format {format!r}.",
            remedy=f"Choose one of {', '.join(DATASET_FORMATS)}.",
            field="format",
        )
    if push and not HUB_ID.fullmatch(push):
        raise InvalidInput(
            f"{push[:120]!r} is not a repository id of the Hub.", remedy="Write it as owner/name.", field="push"
        )
    payload = DatasetExportPayload(
        dataset=require_folder(version.folder, what="dataset"),
        version_id=version.id,
        format=format,
        name=version.label,
        card=render_card(ctx, version.id, hashed=False, format=format),
        out=f"exports/{new_id()}",
        push=HubTarget(repo=push, private=private) if push else None,
    )
    return queue_export(ctx, payload, title=f"Export {version.label}", person=person)


def list_version_exports(ctx: Context, version_id: str) -> list[ExportView]:
    """Return the exports of a version, newest first."""
    with ctx.db.read() as session:
        of_it = (Job.kind == JobKind.EXPORT_DATASET, Job.payload["version_id"].as_string() == version_id)
        query = select(Job).where(*of_it).order_by(Job.created_at.desc()).limit(MAX_SHOWN)
        rows = [(view(job), DatasetExportPayload.read(job.payload)) for job in session.scalars(query)]
    return [view_export(ctx, job, payload) for job, payload in rows]
