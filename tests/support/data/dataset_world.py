"""Dataset versions, imported through the real job."""

from __future__ import annotations

import io
import json
from typing import Any

from backend.domain.data.import_options import ImportOptions
from backend.services.context import LOCAL, Context, Person
from backend.services.data.imports import import_dataset, version_of_job
from backend.services.data.sources import ImportSource
from backend.services.data.uploads import save_upload
from backend.services.data.views import VersionView
from tests.support.job_work import do_job


def imported(ctx: Context, name: str, rows: list[dict[str, Any]], *, kind: str = "instruction") -> VersionView:
    stored = save_upload(ctx, io.BytesIO(json.dumps(rows).encode()), name=f"{name}.json", person=LOCAL)
    return done(
        ctx,
        import_dataset(
            ctx,
            name=name,
            source=ImportSource(upload=stored),
            options=ImportOptions(kind=kind, val_fraction=0.1, max_rejected=1),
            person=LOCAL,
        ),
    )


def done(ctx: Context, version: VersionView) -> VersionView:
    do_job(ctx, str(version.job_id))
    return version_of_job(ctx, str(version.job_id))


RATER = Person(id="r", name="Rater", role="rater")
