"""Prompts of the team: saved by name, each change as a version with its author, found, compared and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Prompt, PromptMatrix, PromptVersion, User
from backend.domain.evaluation.prompts import PromptText
from backend.domain.names import clean_name, not_found, require_length
from backend.errors import Conflict, NotAllowed, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.lookups import find_named
from backend.services.serving.endpoints import is_in_charge

MAX_NAME, MAX_NOTE = 80, 200


@dataclass(frozen=True)
class PromptLine:
    """A prompt in a list: its newest version, and who saved that when. `author` is empty without sign-in."""

    name: str
    number: int
    variables: tuple[str, ...]
    author: str
    saved_at: datetime


@dataclass(frozen=True)
class VersionLine:
    """A version of a prompt in a list: who saved it when."""

    id: str
    number: int
    note: str
    author: str
    saved_at: datetime


@dataclass(frozen=True)
class PromptVersionView(VersionLine):
    """A version of a prompt with what it says."""

    body: PromptText


@dataclass(frozen=True)
class PromptView:
    """A prompt with all versions, the newest first, and what the newest says."""

    name: str
    newest: PromptVersionView
    versions: tuple[VersionLine, ...]

    def version(self, number: int | None) -> VersionLine:
        """Return a version by number, the newest for None. Raises NotFound with those that exist."""
        if number is None:
            return self.versions[0]
        for version in self.versions:
            if version.number == number:
                return version
        raise not_found(
            f"version of “{self.name}”", str(number), (), remedy=f"There are versions 1 to {self.newest.number}."
        )


def list_team_prompts(ctx: Context, query: str = "") -> list[PromptLine]:
    """Return the prompts whose name holds every word of a query, by name."""
    newest = (
        select(PromptVersion.prompt_id, func.max(PromptVersion.number).label("number"))
        .group_by(PromptVersion.prompt_id)
        .subquery()
    )
    rows = (
        select(Prompt.name, PromptVersion, User.name)
        .join(newest, newest.c.prompt_id == Prompt.id)
        .join(PromptVersion, (PromptVersion.prompt_id == Prompt.id) & (PromptVersion.number == newest.c.number))
        .outerjoin(User, User.id == PromptVersion.created_by)
        .order_by(Prompt.name)
    )
    for word in query.replace("\0", "").split():
        rows = rows.where(Prompt.name.icontains(word, autoescape=True))
    with ctx.db.read() as session:
        return [
            PromptLine(name, version.number, version.body.variables, author or "", version.created_at)
            for name, version, author in session.execute(rows)
        ]


def list_prompt_names(ctx: Context) -> list[str]:
    """Return the names of all prompts, sorted."""
    with ctx.db.read() as session:
        return list(session.scalars(select(Prompt.name).order_by(Prompt.name)))


def get_prompt(ctx: Context, name: str) -> PromptView:
    """Return a prompt by name; `get_version` reads what an older version says. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        prompt = _find(session, name)
        rows = session.execute(
            select(PromptVersion.id, PromptVersion.number, PromptVersion.note, User.name, PromptVersion.created_at)
            .outerjoin(User, User.id == PromptVersion.created_by)
            .where(PromptVersion.prompt_id == prompt.id)
            .order_by(PromptVersion.number.desc())
        )
        versions = tuple(VersionLine(id, number, note, author or "", at) for id, number, note, author, at in rows)
        return PromptView(prompt.name, _with_body(session, versions[0]), versions)


def get_version(ctx: Context, prompt: PromptView, number: int | None) -> PromptVersionView:
    """Return a version of a prompt, the newest for None. Raises NotFound with those that exist."""
    with ctx.db.read() as session:
        return _with_body(session, prompt.version(number))


@retry_races
def save_prompt(
    ctx: Context,
    name: str,
    values: Mapping[str, str] | PromptText,
    *,
    note: str = "",
    after: int | None = None,
    person: Person,
) -> PromptView:
    """Save a prompt as its next version, a new name as version 1. What its newest version says already makes none.

    `after` is the version that the caller began with, 0 for a new prompt. Raises Conflict if another was saved since,
    InvalidInput naming the field for a text that is not a template, and for a wrong name.
    """
    require_builder(person)
    name = clean_name(name, what="A prompt", limit=MAX_NAME)
    note = require_length(note.strip(), what="The note", limit=MAX_NOTE, field="note")
    body = values if isinstance(values, PromptText) else PromptText.model_validate(dict(values))
    with ctx.db.write() as session:
        prompt = session.scalar(select(Prompt).where(Prompt.name == name))
        if prompt is None:
            prompt = Prompt(name=name, created_by=person.id, created_at=ctx.now())
            session.add(prompt)
            session.flush()
        newest = session.scalar(
            select(PromptVersion)
            .where(PromptVersion.prompt_id == prompt.id)
            .order_by(PromptVersion.number.desc())
            .limit(1)
        )
        number = 0 if newest is None else newest.number
        if after is not None and after != number:
            raise Conflict(
                f"“{name}” has version {number} already." if after == 0 else f"Version {number} was saved since.",
                remedy="Choose another name, or open that prompt."
                if after == 0
                else "Compare with it, then save again.",
                field="name",
            )
        if newest is None or newest.body != body:
            session.add(
                PromptVersion(
                    prompt_id=prompt.id,
                    number=number + 1,
                    body=body,
                    note=note,
                    created_by=person.id,
                    created_at=ctx.now(),
                )
            )
    return get_prompt(ctx, name)


def delete_prompt(ctx: Context, name: str, *, person: Person) -> None:
    """Delete a prompt with its versions and matrices. Raises NotAllowed for one that another account made."""
    require_builder(person)
    with ctx.db.write() as session:
        prompt = _find(session, name)
        if not is_in_charge(session, prompt.created_by, person=person):
            author = session.get(User, prompt.created_by) if prompt.created_by else None
            raise NotAllowed(
                f"“{name}” was made {f'by {author.name}' if author else 'without an account'}.",
                remedy="Its author and admins delete it.",
            )
        versions = select(PromptVersion.id).where(PromptVersion.prompt_id == prompt.id)
        session.execute(delete(PromptMatrix).where(PromptMatrix.version_id.in_(versions)))
        session.execute(delete(PromptVersion).where(PromptVersion.prompt_id == prompt.id))
        session.delete(prompt)


def _with_body(session: Session, version: VersionLine) -> PromptVersionView:
    body = session.scalar(select(PromptVersion.body).where(PromptVersion.id == version.id))
    if body is None:
        raise NotFound(f"Version {version.number} was deleted.", remedy="Reload the page.")
    return PromptVersionView(**vars(version), body=body)


def _find(session: Session, name: str) -> Prompt:
    return find_named(session, Prompt, name, what="prompt")
