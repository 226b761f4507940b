"""Exports of dataset versions: their card, a zip of README.md and Parquet, folders for other tools, and pushes to a
Hub. A job writes the folders.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import DatasetVersion, Job
from backend.domain.data.export_formats import DATASET_FORMATS, export_path
from backend.domain.data.kinds import KINDS
from backend.domain.data.versions.card import CardFile, CardSource, card_markdown, clean_facts
from backend.domain.jobs.payloads import DatasetExportPayload, HubTarget, require_folder
from backend.domain.jobs.states import JobKind
from backend.domain.names import clean_name
from backend.errors import InvalidInput
from backend.infra.files.hashes import hash_file
from backend.infra.files.parquet import count_rows, read_schema
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.versions import Ancestor, version_lineage
from backend.services.data.views import VersionView
from backend.services.jobs.exports import HUB_ID, ExportView, queue_export, view_export
from backend.services.jobs.jobs import JobView, view
from backend.services.people.signatures import sign_for, unsign_for

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


LINK_AGE_S = 3600
PURPOSE = "download-dataset"
CHUNK = 2**20


def set_card(ctx: Context, version_id: str, *, licence: str, languages: str, notes: str, person: Person) -> None:
    """Replace the card facts of a version; versions derived later inherit them. Raises InvalidInput, NotAllowed."""
    require_builder(person)
    facts = clean_facts(licence=licence, languages=languages, notes=notes)
    with ctx.db.write() as session:
        version = session.get_one(DatasetVersion, version_id)
        version.facts = version.facts.model_copy(update={"card": facts})


def render_card(ctx: Context, reference: str, *, hashed: bool = True, format: str = "parquet") -> str:
    """Return a version's card as Markdown, for an export in a format of backend.domain.data.export_formats.

    `hashed` adds the SHA-256 of its files, which reads them in full.
    """
    version = resolve_version(ctx, reference)
    return card_markdown(_source(ctx, version, hashed=hashed, format=format), version.facts.card)


def _source(ctx: Context, version: VersionView, *, hashed: bool, format: str) -> CardSource:
    files, schema = [], None
    for split, path in split_files(ctx, version):
        schema = schema or read_schema(path)
        digest = hash_file(path) if hashed else ""
        files.append(CardFile(split, export_path(split, format=format), count_rows(path), path.stat().st_size, digest))
    assert schema is not None
    steps = version_lineage(ctx, version.dataset_id)
    return CardSource(
        name=version.dataset,
        version=version.number,
        kind=version.kind,
        kind_words=KINDS[version.kind],
        content_hash=version.content_hash or "",
        files=tuple(files),
        schema=schema.remove_metadata(),
        lineage=tuple(_sentences(steps, version.id)),
        provenance={key: str(value) for key, value in _origin(version).items()},
        text_bytes=version.facts.text_bytes or 0,
    )


def _sentences(steps: list[Ancestor], version_id: str) -> list[str]:
    """Describe how a version was made, one sentence per step, from the first ancestor on."""
    known = {step.id: step for step in steps}
    chain: list[Ancestor] = []
    waiting = [version_id]
    while waiting:
        step = known.get(waiting.pop())
        if step is not None and step not in chain:
            chain.append(step)
            waiting += step.parents
    ordered = [step for step in steps if step in chain]
    return [f"{step.label}: {step.said} ({step.rows:,} rows)" for step in ordered]


def _origin(version: VersionView) -> dict[str, object]:
    """Return the short facts of the provenance, such as a Hub dataset's revision or a campaign's agreement."""
    hidden = ("from", "by", "change", "said", "version", "version_id", "with", "with_id", "rows", "contestants")
    flat = {
        key: value
        for key, value in version.provenance.dump().items()
        if key not in hidden and isinstance(value, str | int | float) and str(value)
    }
    columns = ", ".join(f"{column} → {field}" for column, field in version.mapping.items())
    return {**flat, **({"columns": columns} if columns else {}), "made": f"{version.created_at:%Y-%m-%d %H:%M} UTC"}


def split_files(ctx: Context, version: VersionView) -> list[tuple[str, Path]]:
    """Return (split, Parquet file) of a version, splits without rows left out."""
    assert version.folder is not None
    folder = ctx.artifacts.path(version.folder)
    counts = {"train": version.train_rows, "val": version.val_rows}
    return [(split, folder / f"{split}.parquet") for split, count in counts.items() if count]


def download_link(ctx: Context, version: VersionView, *, person: Person) -> str:
    """Return the download path of a version as a zip file on the pages' server, valid for an hour."""
    token = sign_for(ctx, person, {"version": version.id}, purpose=PURPOSE)
    return f"/download/dataset?token={token}"


def version_of_link(ctx: Context, token: str) -> VersionView:
    """Return the version that a download link names. Raises NotAllowed if it is forged or too old or its account was
    signed out, NotFound if the version is gone.
    """
    _, data = unsign_for(ctx, token, purpose=PURPOSE, max_age_s=LINK_AGE_S)
    return resolve_version(ctx, data.get("version", ""))


def download_name(version: VersionView) -> str:
    """Return the name of a version's zip file, safe in a header."""
    name = clean_name(version.dataset, what="A dataset")
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip("-.") or "dataset"
    return f"{safe}-{version.number}.zip"


def stream_zip(ctx: Context, version: VersionView) -> Iterator[bytes]:
    """Stream a version as a zip file, without a temporary file. Parquet is compressed, so it is only stored."""
    sink = _Sink()
    folder = download_name(version).removesuffix(".zip")
    # a file that is only written needs no seeking
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        archive.writestr(f"{folder}/README.md", render_card(ctx, version.id))
        yield sink.take()
        for split, path in split_files(ctx, version):
            entry = zipfile.ZipInfo(f"{folder}/{export_path(split, format='parquet')}")
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()


class _Sink:
    """A write-only file whose bytes are taken out as they are written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Buffer bytes until they are taken."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is no other buffer."""

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
