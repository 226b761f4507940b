"""`roundhouse data show | diff | derive | card | delete | export`: versions of datasets, as JSON and as text."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit, is_json, note, read_text
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.conversations import describe_dropped, describe_filtered
from backend.domain.data.rows.display import render_preview
from backend.domain.data.rows.problem import describe_rejected, most_frequent, place_of
from backend.domain.data.versions.changes import (
    Change,
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    Resplit,
    RowCondition,
    parse_row_numbers,
)
from backend.domain.data.versions.conditions import TEST_WORDS
from backend.domain.jobs.results import DatasetExportResult
from backend.domain.jobs.states import status_word
from backend.domain.wording import list_first, percent, plural, shorten
from backend.errors import InvalidInput, NotFound
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import delete_dataset, get_dataset, resolve_version
from backend.services.data.diff import VersionDiff, compare_versions
from backend.services.data.exports import export_version, render_card, set_card
from backend.services.data.imports import version_of_job
from backend.services.data.preview import preview_rows
from backend.services.data.versions import Ancestor, delete_version, derive_version, list_dataset_users, version_lineage
from backend.services.data.views import DatasetView, VersionView
from backend.services.dependents import Use
from backend.services.jobs.exports import check_destination, copy_export

Name = Annotated[str, typer.Argument(help="A dataset, or NAME@VERSION.")]
PROGRESS_STEP = 0.1
MAX_COLUMNS = 10


@command
def show(name: Name, rows: Annotated[int, typer.Option(min=0, max=100, help="Training rows to print.")] = 0) -> None:
    """Show a version: counts, provenance, column mapping, lineage, and its users."""
    ctx = get_context()
    version = resolve_version(ctx, name, ready=False)
    dataset = get_dataset(ctx, version.dataset_id)
    lineage = version_lineage(ctx, version.dataset_id)
    users = list_dataset_users(ctx, version.dataset_id, version_id=version.id)
    texts = [row.text for row in preview_rows(ctx, version, limit=rows)] if rows else []
    data = _show_data(dataset, version, lineage=lineage, users=users)
    emit({**data, **({"preview": texts} if rows else {})}, text="\n\n".join([_show_text(data), *texts]))


@command
def diff(
    before: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    after: Annotated[str, typer.Argument(help="NAME@VERSION, or a dataset for its newest.")],
    examples: Annotated[
        int, typer.Option(min=0, max=1000, help="Rows shown of each sort: changed, removed, added.")
    ] = 5,
) -> None:
    """Compare two versions: rows added, removed, unchanged, moved between splits, or with another answer."""
    reported = 0.0

    def progress(share: float) -> None:
        nonlocal reported
        if share >= reported + PROGRESS_STEP:
            reported = share
            note(f"{percent(share)} of the rows read")

    difference = compare_versions(get_context(), before, after, examples=examples, progress=progress)
    emit(_diff_data(difference), text=_diff_text(difference))


@command
def derive(
    name: Name,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Keep the first of equal rows.")] = False,
    loose: Annotated[bool, typer.Option("--loose", help="Also of rows that differ only in case and spaces.")] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="'FIELD TEST VALUE', may be repeated; rows that match all are kept.")
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="Likewise; rows that match all are dropped.")] = None,
    match_case: Annotated[bool, typer.Option("--match-case", help="In conditions.")] = False,
    sample: Annotated[int | None, typer.Option(help="Draw this many rows.")] = None,
    merge: Annotated[str | None, typer.Option(help="Add the rows of NAME@VERSION.")] = None,
    resplit: Annotated[float | None, typer.Option(help="Split again, with this share for validation.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample and --resplit.")] = 1,
    drop_rows: Annotated[str | None, typer.Option(help="Drop training rows: 3,10-20, counted from 1.")] = None,
    drop_val_rows: Annotated[str | None, typer.Option(help="Drop validation rows, counted from 1.")] = None,
    reason: Annotated[str, typer.Option(help="Reason for dropped rows, for the lineage.")] = "",
    to: Annotated[str | None, typer.Option(help="Make a new dataset of this name.")] = None,
) -> None:
    """Derive a new version by one change, and wait for it. The old version is unchanged.

    A condition names a part of a row (`text` for all of it), a test (contains, lacks, equals, differs, at_least,
    at_most; the last two count characters, of `turns` their number), and a value: --keep "completion at_least 20".
    """
    ctx = get_context()
    version = resolve_version(ctx, name)
    changes: list[Change] = []
    if drop_duplicates or loose:
        changes.append(DropDuplicates(loose=loose))
    for texts, keeps_matches in ((keep, True), (leave_out, False)):
        if texts:
            changes.append(
                Filter(conditions=tuple(_condition(text, version, match_case) for text in texts), keep=keeps_matches)
            )
    if sample is not None:
        changes.append(KeepSample(num_rows=sample, seed=seed))
    if merge is not None:
        changes.append(Merge(other=merge))
    if resplit is not None:
        changes.append(Resplit(val_fraction=resplit, seed=seed))
    if drop_rows or drop_val_rows:
        train = parse_row_numbers(drop_rows or "", rows=version.train_rows)
        changes.append(
            DropRows(train=train, val=parse_row_numbers(drop_val_rows or "", rows=version.val_rows), reason=reason)
        )
    if len(changes) != 1:
        names = ", ".join(one.change for one in changes) or "none"
        raise InvalidInput(
            f"A new version is made by one change (given: {names}).", remedy="See `roundhouse data derive --help`."
        )
    made = derive_version(ctx, version.id, change=changes[0], person=LOCAL, name=to)
    assert made.job_id is not None
    wait_for_job(ctx, made.job_id)
    done = version_of_job(ctx, made.job_id)
    emit(version_data(done), text=version_text(done))


def _condition(text: str, version: VersionView, match_case: bool) -> RowCondition:
    field, _, rest = text.strip().partition(" ")
    test, _, value = rest.strip().partition(" ")
    if test not in TEST_WORDS or not value.strip():
        raise InvalidInput(
            f"{text[:80]!r} is not a condition.",
            remedy=f"Write FIELD TEST VALUE, with a test of {', '.join(TEST_WORDS)}.",
            field="keep",
        )
    is_whole_row = field == "text" and version.kind != "text"
    return RowCondition.model_validate(
        {"field": "" if is_whole_row else field, "test": test, "value": value.strip(), "match_case": match_case}
    )


@command
def card(
    name: Name,
    licence: Annotated[str | None, typer.Option(help="Set the licence: an id of the Hub, or free text.")] = None,
    languages: Annotated[str | None, typer.Option(help="Set the languages: codes of ISO 639, such as en,de.")] = None,
    notes: Annotated[Path | None, typer.Option(help="Set the notes from a Markdown file.")] = None,
) -> None:
    """Print or edit a version's card; `roundhouse data export` writes it beside the rows."""
    ctx = get_context()
    version = resolve_version(ctx, name)
    facts = version.facts.card
    if licence is not None or languages is not None or notes is not None:
        set_card(
            ctx,
            version.id,
            licence=facts.licence if licence is None else licence,
            languages=", ".join(facts.languages) if languages is None else languages,
            notes=facts.notes if notes is None else read_text(notes),
            person=LOCAL,
        )
        facts = resolve_version(ctx, version.id).facts.card
    data: dict[str, object] = {
        "dataset": version.dataset,
        "version": version.number,
        "licence": facts.licence,
        "languages": list(facts.languages),
    }
    text = render_card(ctx, version.id)
    emit({**data, "card": text}, text=text.rstrip())


@command
def delete(
    name: Annotated[str, typer.Argument(help="A dataset for all of it, or NAME@VERSION for one version.")],
    with_reports: Annotated[bool, typer.Option("--with-reports", help="Also delete its reports.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete a dataset or one version with its files. Refused, naming the users, while anything needs it."""
    ctx = get_context()
    version = _one_version(ctx, name)
    target = f"version {version.label}" if version else f"dataset “{get_dataset(ctx, name).name}” with all its versions"
    if not yes and not is_json():
        typer.confirm(f"Delete {target} permanently?", abort=True, err=True)
    if version is not None:
        delete_version(ctx, version.id, person=LOCAL, with_reports=with_reports)
    else:
        delete_dataset(ctx, get_dataset(ctx, name).id, person=LOCAL, with_reports=with_reports)
    emit({"deleted": version.label if version else name}, text=f"Deleted {target}.")


def _one_version(ctx: Context, name: str) -> VersionView | None:
    """Return the version of NAME@NUMBER, in any state; None for a whole dataset."""
    try:
        get_dataset(ctx, name)
    except NotFound:
        dataset = get_dataset(ctx, name.rpartition("@")[0] or name)
        match = next((version for version in dataset.versions if version.label == name), None)
        if match is None:
            raise
        return match
    return None


@command
def export(
    name: Annotated[str, typer.Argument(help="A dataset, or NAME@VERSION.")],
    to: Annotated[Path | None, typer.Option(help="A folder that does not exist yet.")] = None,
    format: Annotated[
        str, typer.Option(help="datasets: for datasets.load_from_disk; parquet: as on the Hub; jsonl: JSON lines.")
    ] = "datasets",
    push: Annotated[
        str,
        typer.Option(
            help="Upload the rows to this dataset repository (owner/name) of the Hub, by the key in HF_TOKEN."
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="push: make a new repository public.")] = False,
) -> None:
    """Write a dataset version to a folder for other tools, push it to a Hub, or both."""
    if to is None and not push:
        raise InvalidInput(
            "The export has no destination.", remedy="Give --to FOLDER, --push OWNER/NAME or both.", field="to"
        )
    ctx = get_context()
    version = resolve_version(ctx, name)
    destination = check_destination(to.expanduser().resolve()) if to is not None else None
    queued = export_version(ctx, version.id, format=format, push=push, private=not public, person=LOCAL)
    job = wait_for_job(ctx, queued.id)
    result = DatasetExportResult.model_validate(job.result)
    files: list[str] = []
    if destination is not None:
        files = copy_export(ctx, job, destination)
    else:
        shutil.rmtree(ctx.artifacts.path(result.folder), ignore_errors=True)
    data = {
        "dataset": version.dataset,
        "version": version.number,
        "format": format,
        "rows": result.rows,
        "folder": str(destination) if destination else None,
        "files": files,
        "pushed": result.pushed.model_dump() if result.pushed else None,
    }
    sentences = [f"Exported {version.label} to {destination}: {plural(len(files), 'file')}."] if destination else []
    sentences += [f"Pushed {version.label} to {result.pushed.url}."] if result.pushed else []
    emit(data, text=" ".join(sentences))


LONG = 400  # characters of a row


def version_data(version: VersionView) -> dict[str, object]:
    """Return a version as JSON."""
    return {
        "dataset": version.dataset,
        "version": version.number,
        **attributes_of(
            version,
            "kind",
            "rows",
            "train_rows",
            "val_rows",
            "rejected_rows",
            "rejected",
            "mapping",
            "content_hash",
            "bytes",
            "reused",
        ),
        "status": str(version.status),
        "left_out_columns": left_out_columns(version),
        **version.facts.dump(),
    }


def left_out_columns(version: VersionView) -> list[str]:
    """Return the source's columns of which nothing was imported, but those of media."""
    if version.kind == DatasetKind.RECORDS:
        return []
    used = {column.partition(".")[0] for column in version.mapping} | set(version.mapping)
    return [column for column in version.facts.columns if column not in {*used, *version.facts.dropped_media}]


def version_text(version: VersionView) -> str:
    """Return the result of an import in lines."""
    splits = f" ({version.train_rows:,} train, {version.val_rows:,} validation)"
    if version.is_one_text or version.is_cut:
        end = "its end" if version.is_one_text else "the end of each"
        splits = f", {end} for validation" if version.val_rows else ""
    lines = [f"{version.label}: {version.amount} of kind {version.kind}{splits}."]
    if version.reused:
        lines.append("The content already exists: no new version was made.")
    if left_out := left_out_columns(version):
        lines.append(f"{plural(len(left_out), 'column')} left out: {list_first(left_out, MAX_COLUMNS)}.")
    if dropped := describe_dropped(version.facts.dropped_media):
        lines.append(dropped)
    if filtered := describe_filtered(version.facts.filtered_rows):
        lines.append(filtered)
    if version.rejected_rows:
        share = describe_rejected(version.rejected_rows, version.rows, version.facts.filtered_rows)
        lines.append(f"{share} were rejected and are not in this version:")
        lines += [f"  {line}" for line in most_frequent(version.facts.rejected_reasons)]
        lines += [f"  {place_of(item)}: {item['reason']}" for item in version.rejected[:10]]
    return "\n".join(lines)


def _show_data(
    dataset: DatasetView, version: VersionView, *, lineage: Sequence[Ancestor], users: Sequence[Use]
) -> dict[str, object]:
    """Return a version and its dataset as JSON."""
    labels = {step.id: step.label for step in lineage}
    return {
        **version_data(version),
        "id": version.id,
        "source": version.source,
        "provenance": version.provenance.dump(),
        "created_at": version.created_at.isoformat(),
        "error": version.error.dump(),
        "notes": dataset.notes,
        "archived": dataset.archived_at is not None,
        "lineage": [
            {
                "version": step.label,
                "rows": step.rows,
                "said": step.said,
                "from": [labels[p] for p in step.parents if p in labels],
            }
            for step in lineage
        ],
        "users": [asdict(use) for use in users],
    }


def _show_text(data: dict[str, Any]) -> str:
    """Return the output of `_show_data` in lines."""
    lines = [
        f"{data['dataset']}@{data['version']}, kind {data['kind']}: {plural(data['rows'], 'row')}"
        f" ({data['train_rows']:,} train, {data['val_rows']:,} validation), {data['rejected_rows']:,} rejected"
        + ("" if data["status"] == "finished" else f" ({status_word(data['status'])})")
    ]
    if data["mapping"]:
        lines.append("Columns: " + ", ".join(f"{column} → {field}" for column, field in data["mapping"].items()))
    lines.append("Versions:")
    for step in data["lineage"]:
        origin = f"from {' and '.join(step['from'])}: " if step["from"] else ""
        lines.append(f"  {step['version']}  {plural(step['rows'], 'row')}  {origin}{step['said']}")
    used = [f"{use['what']} “{use['name']}”" for use in data["users"]]
    lines.append("Used by " + ", ".join(used) + "." if used else "Nothing uses this version.")
    return "\n".join(lines)


def _diff_data(diff: VersionDiff) -> dict[str, object]:
    """Return the difference of two versions as JSON."""
    return {
        "before": diff.before.label,
        "after": diff.after.label,
        **{name: getattr(diff, name) for name in ("unchanged", "added", "removed", "changed", "moved")},
        "splits": [asdict(count) for count in diff.splits],
        "fields": [asdict(field) for field in diff.fields],
        "examples": [asdict(example) for example in diff.examples],
    }


def _diff_text(diff: VersionDiff) -> str:
    """Return the difference of two versions in lines."""
    if diff.is_empty:
        return f"{diff.before.label} and {diff.after.label} hold the same {diff.unchanged:,} rows in the same splits."
    lines = [
        f"From {diff.before.label} to {diff.after.label}: {diff.added:,} rows added, {diff.removed:,} removed, "
        f"{diff.unchanged:,} unchanged, {diff.moved:,} moved between training and validation."
    ]
    if diff.changed:
        lines.append(f"{diff.changed:,} of the removed rows have the prompt of an added one: their answers changed.")
    for example in diff.examples:
        for mark, row in (("-", example.before), ("+", example.after)):
            if row is not None:
                text = shorten(render_preview(row), LONG)
                lines.append("\n".join(f"{mark} {line}" for line in text.splitlines()))
        lines.append("")
    return "\n".join(lines).rstrip()
