"""Names and notes of what people make: one rule for every table that has them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Architecture, Checkpoint, Dataset, Run, Tokenizer
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput

MAX_NOTES = 20_000


def rename(
    session: Session,
    row: Architecture | Checkpoint | Dataset | Run | Tokenizer,
    name: str,
    *,
    what: str,
    limit: int = 120,
) -> None:
    """Give a row a name that no other of its table has; `what` reads "a dataset". Raises InvalidInput, Conflict."""
    name, table = clean_name(name, what=what.capitalize(), limit=limit), type(row)
    if session.scalar(select(table.id).where(table.name == name, table.id != row.id)):
        raise Conflict(f"There is already {what} “{name}”.", field="name")
    row.name = name


def replace_notes(session: Session, row: Checkpoint | Dataset | Run, notes: str, *, before: str | None) -> None:
    """Replace a row's notes. With `before`, the notes that the writer began with, raises Conflict if another person has
    changed them meanwhile; InvalidInput for notes that are too long.
    """
    if len(notes) > MAX_NOTES:
        raise InvalidInput(
            f"The notes have {len(notes):,} characters.", remedy=f"Keep them below {MAX_NOTES:,}.", field="notes"
        )
    session.refresh(row, with_for_update=True)
    if before is not None and row.notes not in (before, notes):
        raise Conflict(
            "Another person changed these notes meanwhile, so yours are not saved.",
            remedy="Read theirs, then choose which to keep.",
            field="notes",
        )
    row.notes = notes
