"""What a filter would do, tried on the head of a version."""

from __future__ import annotations

from backend.domain.dataset_changes import Filter
from backend.domain.row_fields import check_change, meets
from backend.domain.rows import DatasetKind
from backend.row_files import read_rows
from backend.services.context import Context
from backend.services.dataset_views import VersionView

TRIED = 500


def try_filter(ctx: Context, version: VersionView, change: Filter) -> tuple[int, int]:
    """Return how many of a version's first training rows a filter keeps, and how many were looked at (at most 500)."""
    check_change(change, kind=DatasetKind(version.kind))
    if version.folder is None:
        return 0, 0
    rows = read_rows(ctx.artifacts.path(version.folder), split="train", limit=TRIED)
    return sum(all(meets(row, condition) for condition in change.conditions) == change.keep for row in rows), len(rows)
