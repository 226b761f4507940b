"""Dismissed steps: what a person no longer wants to read on the overview, until its situation changes."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Select, select

from backend.db.tables import DismissedStep
from backend.services.context import Context, Person


def read_dismissed(ctx: Context, current: Collection[str], *, person: Person) -> frozenset[str]:
    """Return the keys of the `current` steps that a person has dismissed.

    Those that are no longer among the current steps are forgotten, so a step is shown again when its situation, having
    passed, returns.
    """
    with ctx.db.read() as session:
        rows = {row.id: row.key for row in session.scalars(_mine(person))}
    if passed := [row_id for row_id, key in rows.items() if key not in current]:
        with ctx.db.write() as session:
            for row_id in passed:
                if (row := session.get(DismissedStep, row_id)) is not None:
                    session.delete(row)
    return frozenset(key for key in rows.values() if key in current)


def dismiss_step(ctx: Context, key: str, *, person: Person) -> None:
    """Dismiss a step for a person. Twice is once."""
    with ctx.db.write() as session:
        if session.scalar(_mine(person).where(DismissedStep.key == key).limit(1)) is None:
            session.add(DismissedStep(key=key, user_id=person.id, created_at=ctx.now()))


def restore_steps(ctx: Context, *, person: Person) -> None:
    """Show all dismissed steps of a person again."""
    with ctx.db.write() as session:
        for row in session.scalars(_mine(person)):
            session.delete(row)


def _mine(person: Person) -> Select[DismissedStep]:
    owner = DismissedStep.user_id.is_(None) if person.id is None else DismissedStep.user_id == person.id
    return select(DismissedStep).where(owner)
