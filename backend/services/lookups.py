"""Find the rows that people name: by id, or by name with a suggestion for a mistyped one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.base import Table
from backend.domain.names import not_found
from backend.errors import NotFound

MAX_SUGGESTED = 500
"""Newest names that are compared with a mistyped one."""

Row = TypeVar("Row", bound=Table)


def find_row(session: Session, table: type[Row], row_id: str, *, what: str, remedy: str = "", **fields: object) -> Row:
    """Return the row with an id whose fields have these values. Raises NotFound."""
    row = session.get(table, row_id)
    if row is None or not _has(row, fields):
        raise NotFound(f"There is no such {what}.", remedy=remedy, field=what)
    return row


def find_named(
    session: Session, table: type[Row], name_or_id: str, *, what: str, remedy: str = "", **fields: object
) -> Row:
    """Return the row with an id, or else the newest of a name, whose fields have these values. Raises NotFound with
    similar names of rows that are not archived.
    """
    row = session.get(table, name_or_id)
    if row is not None and _has(row, fields):
        return row
    columns: Any = table
    newest = columns.created_at.desc()
    row = session.scalar(select(table).filter_by(name=name_or_id, **fields).order_by(newest).limit(1))
    if row is None:
        listed = {**fields, "archived_at": None} if hasattr(table, "archived_at") else fields
        names = session.scalars(select(columns.name).filter_by(**listed).order_by(newest).limit(MAX_SUGGESTED))
        raise not_found(what, name_or_id, names, remedy=remedy)
    return row


def _has(row: Table, fields: Mapping[str, object]) -> bool:
    return all(getattr(row, name) == value for name, value in fields.items())
