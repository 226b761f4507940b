"""`roundhouse data import`: a file, a folder, a Hub dataset or an object store as a dataset version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.data.versions import version_data, version_text
from backend.cli.options import model_options
from backend.cli.output import command, emit, note
from backend.cli.waiting import wait_for_job
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import UNSPLIT_KINDS, DatasetKind
from backend.domain.data.parsing.text_formats import suffix_of
from backend.domain.data.recognition import LOOKED_FOR
from backend.domain.data.rows.columns import describe_foreign, describe_left_out
from backend.domain.jobs.payloads import HubSource
from backend.domain.json_values import FieldValues
from backend.domain.wording import percent
from backend.errors import InvalidInput, JobFailed
from backend.services.context import LOCAL
from backend.services.data.imports import import_dataset, version_of_job
from backend.services.data.preview import SourcePreview, preview_head
from backend.services.data.sources import ImportSource, read_source_head

PREVIEWED = 3
_HUB_ID = re.compile(r"(hf://)?(?:datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")


@command
@model_options(ImportOptions)
def import_(
    source: Annotated[
        str, typer.Argument(help="A file, a folder, owner/name on the Hub, s3://bucket/path or gs://bucket/path.")
    ],
    name: Annotated[str, typer.Option(help="The dataset's name; one that exists gets a new version.")],
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=FIELD, may be repeated; detected when left out. A path names a nested column:"
            " ticket.body.question=prompt."
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Config of a Hub dataset.")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split of a Hub dataset (train when left out) or of a folder saved by `datasets`."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub dataset; main when left out.")
    ] = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Show columns with a sample of each, and the first rows; import nothing."),
    ] = False,
    *,
    options: FieldValues,
) -> None:
    """Import a source as a new version of a dataset, and wait for it. Repeated after a failure or a stop, the import
    resumes.
    """
    ctx = get_context()
    import_source = read_source(source, config=config, split=split, revision=revision)
    chosen = ImportOptions(**options, mapping=dict(part.partition("=")[::2] for part in column or []))
    detected = None
    if chosen.kind is None or preview:
        head = read_source_head(ctx, import_source, person=LOCAL, encoding=chosen.encoding)
        if head.foreign:
            note(f"{describe_foreign(head)} The option is --encoding.")
        if head.left_out:
            note(describe_left_out(head))
    if chosen.kind is None:
        detected = preview_head(head)
        chosen = chosen.model_copy(update={"kind": detected.kind})
        note(detection_text(detected))
    if preview:
        shown = preview_head(head, kind=chosen.kind, mapping=chosen.mapping or None)
        emit({**preview_data(shown), "detected": detection_data(detected)}, text=preview_text(shown))
        return
    if chosen.kind in UNSPLIT_KINDS and chosen.val_fraction != ImportOptions().val_fraction:
        note(f"Rows of kind {chosen.kind} are not split: --val-fraction {chosen.val_fraction:g} has no effect.")
    version = import_dataset(ctx, name=name, source=import_source, options=chosen, person=LOCAL)
    assert version.job_id is not None
    try:
        wait_for_job(ctx, version.job_id)
    except JobFailed as error:
        if version_of_job(ctx, version.job_id).error.field != "rejected":
            raise
        remedy = "Nothing was imported. Correct the kind, the columns or the file, or skip such rows: --max-rejected 1."
        raise JobFailed(error.message, remedy=remedy) from error
    done = version_of_job(ctx, version.job_id)
    emit({**version_data(done), "detected": detection_data(detected)}, text=version_text(done))


def detection_data(detected: SourcePreview | None) -> dict[str, object] | None:
    """Return how a kind was detected; None where it was given."""
    if detected is None:
        return None
    return {
        "kind": detected.kind,
        "confidence": detected.confidence,
        "reason": detected.reason,
        "fallback": detected.is_fallback,
    }


def preview_data(shown: SourcePreview) -> dict[str, object]:
    """Return what an import would read: columns with the field that each fills and a sample, and the first rows."""
    return {
        "kind": shown.kind,
        "columns": [
            {"column": column, "field": shown.mapping.get(column), "sample": shown.examples[column]}
            for column in shown.columns
        ],
        "problem": shown.problem or None,
        "rows": [{"text": row.text, "problem": row.problem or None} for row in shown.preview[:PREVIEWED]],
    }


def preview_text(shown: SourcePreview) -> str:
    """Return the columns and the first rows of a preview in lines."""
    other = "kept as it is" if shown.kind == DatasetKind.RECORDS else "not used"
    columns = [f"  {name} → {shown.mapping.get(name, other)}: {shown.examples[name]}" for name in shown.columns]
    rows = [f"Rejected: {row.problem}" if row.problem else row.text for row in shown.preview[:PREVIEWED]]
    problem = [f"These columns can't be imported: {shown.problem}."] if shown.problem else []
    return "\n".join([f"Columns, kind {shown.kind}:", *columns, *problem, *(f"\n{row}" for row in rows)])


def detection_text(detected: SourcePreview) -> str:
    """Return the detected kind with its confidence and reason; of a fallback to text also the columns searched for."""
    head = f"Detected: {detected.kind} ({percent(detected.confidence)} sure)"
    if not detected.is_fallback:
        return f"{head}: {detected.reason}."
    return "\n".join(
        [
            f"{head}: no other kind fits; {detected.reason}.",
            "Searched for:",
            *(f"  {names}" for names in LOOKED_FOR),
            "If the file holds something else, stop the import and give --kind and --column COLUMN=FIELD.",
        ]
    )


def read_source(
    text: str, *, config: str | None = None, split: str | None = None, revision: str | None = None
) -> ImportSource:
    """Return the source a text names: a URL by its scheme, a path if it exists or has a known suffix, otherwise an id
    of the Hub.

    Raises InvalidInput for options that only the Hub has.
    """
    path = Path(text)
    if "://" in text and not text.startswith("hf://"):
        import_source = ImportSource(url=text)
    elif text.startswith("hf://") or (not path.exists() and not _has_ending(text) and _HUB_ID.fullmatch(text)):
        match = _HUB_ID.fullmatch(text)
        return ImportSource(
            hub=HubSource(id=match[2] if match else text, config=config, split=split, revision=revision)
        )
    else:
        import_source, split = ImportSource(path=path, split=split), None
    for option, value in (("config", config), ("split", split), ("revision", revision)):
        if value is not None:
            raise InvalidInput(
                f"--{option} is for datasets of the Hub, and {text} is none.", remedy="Leave it out.", field=option
            )
    return import_source


def _has_ending(name: str) -> bool:
    try:
        suffix_of(name)
    except InvalidInput:
        return False
    return True
