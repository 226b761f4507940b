"""Measured agreement of the refusal scorer with human labels: imported, measured, stored, shown beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from backend.db.tables import Analysis
from backend.domain.evaluation.safety.agreement import (
    NOT_MEASURED,
    ScorerAgreement,
    measure_agreement,
    read_agreement,
    read_labelled,
)
from backend.domain.evaluation.safety.refusal import SCORER
from backend.services.context import Context, Person, require_builder

KIND = "scorer_agreement"


def add_agreement(ctx: Context, *, rows: Sequence[Mapping[str, Any]], file: str, person: Person) -> ScorerAgreement:
    """Measure the scorer on a labelled file and store the result. Raises InvalidInput, NotAllowed."""
    require_builder(person)
    agreement = measure_agreement(read_labelled(rows), file=file)
    with ctx.db.write() as session:
        session.add(
            Analysis(
                kind=KIND,
                config={"file": file, "scorer": agreement.scorer},
                result=agreement.dump(),
                created_by=person.id,
                created_at=ctx.now(),
            )
        )
    return agreement


def list_agreements(ctx: Context) -> list[ScorerAgreement]:
    """Return the present scorer's newest agreement on each file, newest first. Those of earlier rules are left out."""
    query = select(Analysis).where(Analysis.kind == KIND).order_by(Analysis.created_at.desc())
    with ctx.db.read() as session:
        stored = [read_agreement(row.result) for row in session.scalars(query)]
    newest: dict[str, ScorerAgreement] = {}
    for agreement in stored:
        if agreement.scorer == SCORER:
            newest.setdefault(agreement.file, agreement)
    return list(newest.values())


def agreement_line(ctx: Context) -> str:
    """Return the line shown beside the scorer's numbers."""
    agreements = list_agreements(ctx)
    return agreements[0].sentence if agreements else f"{SCORER}: {NOT_MEASURED}"
