"""Dataset versions, imported through the real job."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.data.import_options import ImportOptions
from backend.services.context import LOCAL, Context, Person
from backend.services.data.imports import import_dataset, version_of_job
from backend.services.data.sources import ImportSource, save_upload
from backend.services.data.views import VersionView
from tests.support.job_work import do_job


def queue_import(
    ctx: Context,
    name: str,
    content: Sequence[Mapping[str, Any]] | str | bytes,
    *,
    file: str = "",
    kind: str = "instruction",
    **options: Any,
) -> VersionView:
    """Upload rows, or a file with this content, and queue their import."""
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    data = io.BytesIO(text.encode() if isinstance(text, str) else text)
    source = ImportSource(upload=save_upload(ctx, data, name=file or f"{name}.json", person=LOCAL))
    return import_dataset(ctx, name=name, source=source, options=ImportOptions(kind=kind, **options), person=LOCAL)


def imported(ctx: Context, name: str, rows: Sequence[Mapping[str, Any]], *, kind: str = "instruction") -> VersionView:
    """Import rows, a tenth of them for validation."""
    return done(ctx, queue_import(ctx, name, rows, kind=kind, val_fraction=0.1, max_rejected=1))


def done(ctx: Context, version: VersionView) -> VersionView:
    do_job(ctx, version.job_id)
    return version_of_job(ctx, str(version.job_id))


RATER = Person(id="r", name="Rater", role="rater")
