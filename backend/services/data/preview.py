"""Preview a source before its import: kind, columns, first rows."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from backend.domain.attributes import view_of
from backend.domain.data.kinds import FIELDS, LINE_KINDS, REQUIRED, DatasetKind
from backend.domain.data.parsing.text_formats import is_text_file
from backend.domain.data.recognition import has_passage_lines, recognise, split_lines
from backend.domain.data.rows.columns import SourceHead, column_paths, nearest_column, read_column
from backend.domain.data.rows.conversations import count_media, media_columns
from backend.domain.data.rows.display import displayable, render_preview
from backend.domain.data.rows.mapping import check_mapping, map_sample
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.trees import TREE
from backend.domain.data.rows.values import cell_text
from backend.domain.wording import shorten
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView

PREVIEW_CHARACTERS = 1200
MAX_PREVIEWED = 100  # a message tree may hold thousands of conversations


@dataclass(frozen=True)
class PreviewRow:
    """One row of the preview: as the dataset would store it, or why it would be rejected."""

    text: str
    problem: str = ""


@dataclass(frozen=True)
class Hint:
    """A field without a column, and the one probably meant. `missing`: a mapped column that does not exist."""

    field: str
    column: str
    missing: str = ""


@dataclass(frozen=True)
class SourcePreview:
    """The recognised kind and columns of a source, with its first rows as they would be stored.

    `mapping` goes from source column to field; `examples` shows a value of each column; `problem` is why the mapping
    can't be used, `hints` are remedies. `is_fallback`: text, because no other kind fits. `dropped_media` counts the
    first rows with something in a column of images, video or audio, by column. `misfits`: further files whose first
    rows do not fit, with the reason.
    """

    name: str
    files: int
    bytes: int
    columns: tuple[str, ...]
    examples: dict[str, str]
    kind: str
    mapping: dict[str, str]
    confidence: float
    reason: str
    preview: tuple[PreviewRow, ...]
    problem: str = ""
    hints: tuple[Hint, ...] = ()
    is_fallback: bool = False
    dropped_media: dict[str, int] = dataclasses.field(default_factory=dict)
    misfits: tuple[tuple[str, str], ...] = ()


def preview_head(head: SourceHead, *, kind: str | None = None, mapping: dict[str, str] | None = None) -> SourcePreview:
    """Recognise the kind and columns of a source's first rows, or test the given `kind` and `mapping` on them."""
    rows = head.rows
    if kind is None and mapping is None and has_passage_lines(head.name, rows):
        kind = DatasetKind.RECORDS.value
    if kind in LINE_KINDS and is_text_file(head.name):
        rows = split_lines(rows)
    columns = tuple(name for name in column_paths(rows) if name == displayable(name))
    given_kind = DatasetKind(kind) if kind else None
    found_kind, confidence, reason, problem, is_fallback = given_kind or DatasetKind.TEXT, 1.0, "", "", False
    if mapping is None:
        try:
            recognition = recognise(rows, kind=given_kind)
            found_kind, mapping, confidence, reason = (
                recognition.kind,
                dict(recognition.mapping),
                recognition.confidence,
                recognition.reason,
            )
            is_fallback = recognition.is_fallback
        except InvalidInput as error:
            mapping, confidence, problem = _near_columns(columns, found_kind) if given_kind else {}, 0.0, str(error)
    if not problem:
        try:
            check_mapping(found_kind, mapping)
        except RowProblem as error:
            problem = error.reason
    hints = _hints(columns, found_kind, mapping)
    return view_of(
        SourcePreview,
        head,
        columns=columns,
        examples={c: _example(rows, c) for c in columns},
        kind=found_kind.value,
        mapping=mapping,
        confidence=confidence,
        reason=displayable(reason),
        preview=() if problem else _preview(rows, found_kind, mapping, head.unreadable),
        problem=displayable(problem),
        hints=hints,
        is_fallback=is_fallback,
        dropped_media=count_media(rows, media_columns(rows, kind=found_kind, mapping=mapping)),
        misfits=() if problem else _misfits(head, found_kind, mapping),
    )


def _misfits(head: SourceHead, kind: DatasetKind, mapping: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the further files of which no row fits the mapping, with the reason of the first."""
    misfits = []
    for name, read in head.others:
        rows = split_lines(read) if kind in LINE_KINDS and is_text_file(name) else read
        mapped = [part for _, part in map_sample(rows, kind=kind, mapping=mapping)]
        reasons = [part.reason for part in mapped if isinstance(part, RowProblem)]
        if len(reasons) == len(mapped):
            misfits.append((displayable(name), displayable(reasons[0]) if reasons else "no row can be read"))
    return tuple(misfits)


def _near_columns(columns: tuple[str, ...], kind: DatasetKind) -> dict[str, str]:
    """Return column -> field for required fields with a similar column name, a start if some fields have none."""
    mapping: dict[str, str] = {}
    for field in REQUIRED[kind][0]:
        if near := nearest_column(field, [column for column in columns if column not in mapping]):
            mapping[near] = field
    return mapping


def _hints(columns: tuple[str, ...], kind: DatasetKind, mapping: dict[str, str]) -> tuple[Hint, ...]:
    """Suggest columns for required fields without one, and for mapped columns that do not exist."""
    free = [column for column in columns if column not in mapping]
    hints = []
    for missing, field in [(column, field) for column, field in mapping.items() if column not in columns]:
        if near := nearest_column(field, free, like=missing) or (free[0] if len(free) == 1 else None):
            hints.append(Hint(field, near, missing))
    mapped = {field for column, field in mapping.items() if column in columns}
    needed = min(REQUIRED[kind], key=lambda fields: len(set(fields) - mapped))
    for field in [field for field in needed if field not in mapped and field not in {hint.field for hint in hints}]:
        only = free[0] if len(free) == 1 and field != TREE else None  # hardly any lone column holds trees
        if near := nearest_column(field, free) or only:
            hints.append(Hint(field, near))
            free.remove(near)
    return tuple(hints)


def mappable_fields(kind: str) -> tuple[str, ...]:
    """Return the fields that columns may be mapped to for a kind."""
    return FIELDS[DatasetKind(kind)]


def preview_rows(ctx: Context, version: VersionView, *, split: str = "train", limit: int = 10) -> list[PreviewRow]:
    """Return the first rows of a version as plain text."""
    if version.folder is None:
        return []
    rows = read_version_rows(ctx, version.folder, split=split, limit=limit)
    return [PreviewRow(_cut(render_preview(row))) for row in rows]


def read_rejected(ctx: Context, version: VersionView) -> bytes:
    """Return the rejected rows of a version with their reasons, as JSON Lines (at most 100,000)."""
    if version.folder is None:
        return b""
    path = ctx.artifacts.path(f"{version.folder}/rejected.jsonl")
    return path.read_bytes() if path.is_file() else b""


def _preview(
    rows: list[dict[str, object]], kind: DatasetKind, mapping: dict[str, str], unreadable: tuple[str, ...]
) -> tuple[PreviewRow, ...]:
    mapped = itertools.islice(map_sample(rows, kind=kind, mapping=mapping), MAX_PREVIEWED)
    broken = (PreviewRow("", problem=displayable(reason)) for reason in unreadable[:MAX_PREVIEWED])
    return *broken, *(
        (
            PreviewRow(_cut(cell_text(row)), problem=displayable(part.reason))
            if isinstance(part, RowProblem)
            else PreviewRow(_cut(render_preview(part)))
        )
        for row, part in mapped
    )


def _example(rows: list[dict[str, object]], column: str) -> str:
    values = (read_column(row, column) for row in rows)
    return _cut(cell_text(next((value for value in values if value not in (None, "")), "")), 120)


def _cut(text: str, limit: int = PREVIEW_CHARACTERS) -> str:
    return displayable(shorten(text, limit))
