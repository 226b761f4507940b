"""Presets: named settings of the playground, one's own and those that others share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select

from backend.db.tables import Preset, User
from backend.domain.serving.chat import AnswerSettings, ChatSettings
from backend.domain.validation import STORED
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder

MAX_NAME = 80


@dataclass(frozen=True)
class PresetView:
    """A preset. `owner` is None for one's own."""

    id: str
    name: str
    owner: str | None
    is_shared: bool
    settings: AnswerSettings

    @property
    def is_own(self) -> bool:
        """Return whether the person may change it."""
        return self.owner is None


def save_preset(
    ctx: Context, name: str, settings: ChatSettings, *, is_shared: bool = False, person: Person
) -> PresetView:
    """Store settings under a name, in place of one's own preset of that name. Raises InvalidInput for a bad name."""
    require_builder(person)
    name = name.strip()
    if not name or len(name) > MAX_NAME:
        raise InvalidInput(f"A preset's name has 1 to {MAX_NAME} characters.", field="name")
    values = AnswerSettings.model_validate(settings.model_dump(), context=STORED)
    with ctx.db.write() as session:
        row = session.scalar(select(Preset).where(Preset.name == name, _own(person)))
        if row is None:
            row = Preset(name=name, user_id=person.id, created_at=ctx.now())
            session.add(row)
        row.settings, row.is_shared = values, is_shared
        session.flush()
        return _view(row, owner=None)


def list_presets(ctx: Context, *, person: Person) -> list[PresetView]:
    """Return one's own presets and the shared ones, by name."""
    query = (
        select(Preset, User.name).outerjoin(User, User.id == Preset.user_id).where(or_(_own(person), Preset.is_shared))
    )
    with ctx.db.read() as session:
        rows = session.execute(query.order_by(Preset.name)).all()
    return [_view(row, owner=None if row.user_id == person.id else name or "the first account") for row, name in rows]


def delete_preset(ctx: Context, preset_id: str, *, person: Person) -> None:
    """Delete one's own preset. Raises NotFound for any other."""
    with ctx.db.write() as session:
        row = session.scalar(select(Preset).where(Preset.id == preset_id, _own(person)))
        if row is None:
            raise NotFound("There is no such preset of yours.")
        session.delete(row)


def _own(person: Person) -> Any:
    return Preset.user_id.is_(None) if person.id is None else Preset.user_id == person.id


def _view(row: Preset, *, owner: str | None) -> PresetView:
    return PresetView(row.id, row.name, owner, row.is_shared, row.settings)
