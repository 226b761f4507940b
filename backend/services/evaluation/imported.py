"""Scores that other programs measured: imported from their results files, listed, removed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from backend.db.races import retry_races
from backend.db.tables import ImportedEvaluation
from backend.domain.attributes import attributes_of, view_of
from backend.domain.evaluation.exchange import StatedScore, read_results
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.lookups import find_row

MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ImportedView:
    """A model's scores on one benchmark as a file states them."""

    id: str
    model: str
    benchmark: str
    harness: str
    source: str
    scores: tuple[StatedScore, ...]
    config: JsonObject
    created_at: datetime


@retry_races
def import_results(ctx: Context, content: bytes, *, source: str, person: Person) -> list[ImportedView]:
    """Import a results file. Content imported before gives the existing rows. Raises InvalidInput naming why."""
    require_builder(person)
    source = source.replace("\\", "/").rsplit("/", 1)[-1][:300]
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{source} has {len(content):,} bytes; at most {MAX_BYTES:,} are read.", field="file")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{source} is not JSON: {error}.", remedy="Give the results file, not the samples.", field="file"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    rows = read_results(data, source=source)
    with ctx.db.write() as session:
        known = set(
            session.scalars(select(ImportedEvaluation.benchmark).where(ImportedEvaluation.content_hash == digest))
        )
        for row in rows:
            if row.benchmark not in known:
                known.add(row.benchmark)
                session.add(
                    ImportedEvaluation(
                        **attributes_of(row, "harness", "model", "benchmark", "config"),
                        content_hash=digest,
                        source=source,
                        scores=list(row.scores),
                        created_by=person.id,
                        created_at=ctx.now(),
                    )
                )
    return list_imported(ctx, content_hash=digest)


def list_imported(ctx: Context, *, content_hash: str | None = None) -> list[ImportedView]:
    """Return the imported scores, newest first; with `content_hash` those of one file."""
    query = select(ImportedEvaluation).order_by(ImportedEvaluation.created_at.desc(), ImportedEvaluation.benchmark)
    if content_hash is not None:
        query = query.where(ImportedEvaluation.content_hash == content_hash)
    with ctx.db.read() as session:
        rows = session.scalars(query)
        return [view_of(ImportedView, row, scores=tuple(row.scores), config=dict(row.config)) for row in rows]


def remove_imported(ctx: Context, imported_id: str, *, person: Person) -> int:
    """Remove every score that came from the same file; return how many. Raises NotFound."""
    require_builder(person)
    with ctx.db.write() as session:
        remedy = "It may have been removed; see the list."
        row = find_row(session, ImportedEvaluation, imported_id, what="imported evaluation", remedy=remedy)
        ids = list(
            session.scalars(select(ImportedEvaluation.id).where(ImportedEvaluation.content_hash == row.content_hash))
        )
        session.execute(delete(ImportedEvaluation).where(ImportedEvaluation.id.in_(ids)))
        return len(ids)
