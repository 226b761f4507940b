"""Drafts: what a person has typed into a form and not sent, one per form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, delete, select

from backend.db.tables import SavedView
from backend.domain.json_values import FieldValues
from backend.services.context import Context, Person

MAX_CHARACTERS = 100_000
NAME = "draft"


@dataclass(frozen=True)
class FormDraft:
    """A draft and when it was changed last."""

    values: FieldValues
    saved_at: datetime


def read_draft(ctx: Context, form: str, *, person: Person) -> FormDraft | None:
    """Return a person's draft of a form."""
    with ctx.db.read() as session:
        row = session.scalar(_mine(form, person))
    if row is None:
        return None
    try:
        values = json.loads(row.query)
    except ValueError:
        return None
    return FormDraft(values, row.created_at) if isinstance(values, dict) else None


def save_draft(ctx: Context, form: str, values: FieldValues, *, person: Person) -> None:
    """Save a person's draft of a form in place of the one before; one beyond 100,000 characters is not kept."""
    text = json.dumps(values)
    if len(text) > MAX_CHARACTERS:
        return
    with ctx.db.write() as session:
        row = session.scalar(_mine(form, person))
        if row is None:
            row = SavedView(page=_page(form), name=NAME, user_id=person.id)
            session.add(row)
        row.query, row.created_at = text, ctx.now()


def drop_draft(ctx: Context, form: str, *, person: Person) -> None:
    """Delete a person's draft of a form."""
    owner = SavedView.user_id.is_(None) if person.id is None else SavedView.user_id == person.id
    with ctx.db.write() as session:
        session.execute(delete(SavedView).where(SavedView.page == _page(form), owner))


def _mine(form: str, person: Person) -> Select[SavedView]:
    owner = SavedView.user_id.is_(None) if person.id is None else SavedView.user_id == person.id
    return select(SavedView).where(SavedView.page == _page(form), owner).order_by(SavedView.created_at.desc()).limit(1)


def _page(form: str) -> str:
    return f"draft:{form}"
