"""Versions of datasets as JSON and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from backend.domain.attributes import attributes_of
from backend.domain.data.rows.conversations import describe_dropped, describe_filtered
from backend.domain.data.rows.display import render_preview
from backend.domain.data.rows.problem import describe_rejected, most_frequent
from backend.domain.jobs.states import status_word
from backend.domain.wording import plural, shorten
from backend.services.data.diff import VersionDiff
from backend.services.data.versions import Ancestor
from backend.services.data.views import DatasetView, VersionView
from backend.services.dependents import Use

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
        **version.facts.dump(),
    }


def version_text(version: VersionView) -> str:
    """Return the result of an import in lines."""
    splits = f" ({version.train_rows:,} train, {version.val_rows:,} validation)"
    if version.is_one_text or version.is_cut:
        end = "its end" if version.is_one_text else "the end of each"
        splits = f", {end} for validation" if version.val_rows else ""
    lines = [f"{version.label}: {version.amount} of kind {version.kind}{splits}."]
    if version.reused:
        lines.append("The content already exists: no new version was made.")
    if dropped := describe_dropped(version.facts.dropped_media):
        lines.append(dropped)
    if filtered := describe_filtered(version.facts.filtered_rows):
        lines.append(filtered)
    if version.rejected_rows:
        share = describe_rejected(version.rejected_rows, version.rows, version.facts.filtered_rows)
        lines.append(f"{share} were rejected and are not in this version:")
        lines += [f"  {line}" for line in most_frequent(version.facts.rejected_reasons)]
        lines += [f"  row {item['row']}: {item['reason']}" for item in version.rejected[:10]]
    return "\n".join(lines)


def show_data(
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


def show_text(data: dict[str, Any]) -> str:
    """Return the output of `show_data` in lines."""
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


def diff_data(diff: VersionDiff) -> dict[str, object]:
    """Return the difference of two versions as JSON."""
    return {
        "before": diff.before.label,
        "after": diff.after.label,
        **{name: getattr(diff, name) for name in ("unchanged", "added", "removed", "changed", "moved")},
        "splits": [asdict(count) for count in diff.splits],
        "fields": [asdict(field) for field in diff.fields],
        "examples": [asdict(example) for example in diff.examples],
    }


def diff_text(diff: VersionDiff) -> str:
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
