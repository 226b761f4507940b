"""Names of what people make: one rule for every table that has them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Architecture, Checkpoint, Dataset, Run, Tokenizer
from backend.domain.names import clean_name
from backend.errors import Conflict

MAX_NOTES = 20_000


def rename(
    session: Session,
    row: Architecture | Checkpoint | Dataset | Run | Tokenizer,
    name: str,
    *,
    what: str,
    limit: int = 120,
) -> None:
    """Give a row a name that no other of its table has; `what` reads "a dataset". Raises InvalidInput, or Conflict if
    it is taken.
    """
    name, table = clean_name(name, what=what.capitalize(), limit=limit), type(row)
    if session.scalar(select(table.id).where(table.name == name, table.id != row.id)):
        raise Conflict(f"There is already {what} “{name}”.", field="name")
    row.name = name
