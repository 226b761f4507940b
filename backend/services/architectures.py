"""Stored architectures, from which new networks are built."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import yaml
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Architecture, Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_parameters
from backend.domain.attributes import view_of
from backend.domain.names import clean_name
from backend.domain.validation import read_values
from backend.domain.yaml_text import parse_yaml
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.dependents import refuse_while_used, users_of_architecture
from backend.services.lookups import find_named


@dataclass(frozen=True)
class ArchitectureView:
    """A stored architecture, its parameters, and its number of runs."""

    id: str
    name: str
    config: ArchitectureConfig
    parameters: int
    num_runs: int
    created_at: datetime
    archived_at: datetime | None


@retry_races
def save_architecture(ctx: Context, *, name: str, config: ArchitectureConfig, person: Person) -> ArchitectureView:
    """Store an architecture under a name.

    Architectures are immutable: the same name with the same config returns the stored one, another config raises
    Conflict.
    """
    require_builder(person)
    name = clean_name(name, what="An architecture")
    with ctx.db.write() as session:
        row = session.scalar(select(Architecture).where(Architecture.name == name))
        if row is not None and row.config != config:
            raise Conflict(
                f"There is already another architecture “{name}”.",
                remedy="Architectures don't change: choose another name.",
                field="name",
            )
        if row is None:
            row = Architecture(
                name=name,
                config=config,
                parameters=sum(count_parameters(config).values()),
                created_by=person.id,
                created_at=ctx.now(),
            )
            session.add(row)
        row.archived_at = None
        session.flush()
        return _view(session, row)


def list_architectures(ctx: Context, *, archived: bool = False) -> list[ArchitectureView]:
    """Return stored architectures, newest first."""
    with ctx.db.read() as session:
        query = select(Architecture).order_by(Architecture.created_at.desc(), Architecture.name)
        query = query.where(Architecture.archived_at.is_not(None) if archived else Architecture.archived_at.is_(None))
        return [_view(session, row) for row in session.scalars(query)]


def get_architecture(ctx: Context, name_or_id: str) -> ArchitectureView:
    """Return one by name or id. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        return _view(session, _find(session, name_or_id))


def archive_architecture(ctx: Context, architecture_id: str, *, person: Person, archived: bool = True) -> None:
    """Archive an architecture, or restore it."""
    require_builder(person)
    with ctx.db.write() as session:
        _find(session, architecture_id).archived_at = ctx.now() if archived else None


def delete_architecture(ctx: Context, architecture_id: str, *, person: Person) -> None:
    """Delete an architecture. Raises Conflict, naming the runs, while any refers to it."""
    require_builder(person)
    with ctx.db.write() as session:
        row = _find(session, architecture_id)
        refuse_while_used(
            "architecture",
            row.name,
            users_of_architecture(session, row.id),
            remedy="Archive it instead: that keeps the history.",
        )
        session.delete(row)


def parse_architecture(text: str) -> ArchitectureConfig:
    """Read an architecture from YAML. Raises InvalidInput with the line or field at fault."""
    data = parse_yaml(text, what="The architecture")
    if not isinstance(data, dict):
        raise InvalidInput("An architecture is a mapping of fields to values, such as `width: 128`.")
    return read_values(ArchitectureConfig, data, intro="This model can't be built: ")


def architecture_yaml(config: ArchitectureConfig) -> str:
    """Write an architecture as the YAML that `roundhouse architecture describe` reads."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def _find(session: Session, name_or_id: str) -> Architecture:
    remedy = "Save one on the Architectures page."
    return find_named(session, Architecture, name_or_id, what="architecture", remedy=remedy)


def _view(session: Session, row: Architecture) -> ArchitectureView:
    runs = session.scalar(select(func.count()).select_from(Run).where(Run.architecture_id == row.id)) or 0
    return view_of(ArchitectureView, row, num_runs=runs)
