"""Saved views: a person's named ways of looking at a page, each the query of its address."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from backend.db.tables import SavedView
from backend.domain.names import clean_name
from backend.errors import InvalidInput
from backend.services.context import Context, Person
from backend.services.lookups import find_row

MAX_VIEWS, MAX_QUERY = 100, 4_000


@dataclass(frozen=True)
class SavedViewLine:
    """A saved view. `query` is that of an address: `filter=...&sort=-created`."""

    id: str
    name: str
    query: str


def list_saved_views(ctx: Context, page: str, *, person: Person) -> list[SavedViewLine]:
    """Return a person's views of a page, by name."""
    with ctx.db.read() as session:
        rows = session.scalars(_mine(page, person).order_by(SavedView.name))
        return [SavedViewLine(row.id, row.name, row.query) for row in rows]


def save_view(ctx: Context, page: str, name: str, query: str, *, person: Person) -> SavedViewLine:
    """Save a view; one of that name is replaced. Raises InvalidInput for a wrong name, and beyond a hundred views."""
    name = clean_name(name, what="A view", limit=80)
    if len(query) > MAX_QUERY:
        raise InvalidInput(
            f"The view has {len(query):,} characters.", remedy="Choose fewer columns, or a shorter filter."
        )
    with ctx.db.write() as session:
        mine = list(session.scalars(_mine(page, person)))
        row = next((row for row in mine if row.name == name), None)
        if row is None:
            if len(mine) >= MAX_VIEWS:
                raise InvalidInput(f"You have {MAX_VIEWS} views of this page.", remedy="Delete one first.")
            row = SavedView(page=page, name=name, user_id=person.id, query=query, created_at=ctx.now())
            session.add(row)
        row.query = query
        session.flush()
        return SavedViewLine(row.id, row.name, row.query)


def delete_view(ctx: Context, view_id: str, *, person: Person) -> None:
    """Delete a view of one's own. Raises NotFound for any other."""
    with ctx.db.write() as session:
        session.delete(_own(session, view_id, person))


def _own(session: Session, view_id: str, person: Person) -> SavedView:
    remedy = "It may have been deleted."
    return find_row(session, SavedView, view_id, what="saved view", remedy=remedy, user_id=person.id)


def _mine(page: str, person: Person) -> Select[SavedView]:
    owner = SavedView.user_id.is_(None) if person.id is None else SavedView.user_id == person.id
    return select(SavedView).where(SavedView.page == page, owner)
