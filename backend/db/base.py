"""Declarative base of every table, UTC timestamps and short ids."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import DateTime, ForeignKey, MetaData, String, event, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, TypeResolve, mapped_column
from sqlalchemy.types import JSON, TypeDecorator

from backend.db.documents import Document, is_shape

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # no ambiguous characters


def new_id() -> str:
    """Return a random URL-safe id of 12 characters (59 bits)."""
    return "".join(secrets.choice(ALPHABET) for _ in range(12))


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A UTC datetime. SQLite stores no time zone, so reading adds it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a datetime without a time zone can't be stored")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Table(DeclarativeBase):
    """Base of every ORM class."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Record(Table):
    """Base of tables whose rows have a short id and say when they were made."""

    __abstract__ = True
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(default=utc_now, sort_order=1)


class Authored(Record):
    """Base of records that an account made; `created_by` is None without sign-in."""

    __abstract__ = True
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"), sort_order=1)


@event.listens_for(Table, "resolve_type_annotation")
def _store_documents(annotated: TypeResolve) -> Document | None:
    """Give a column that is annotated with a model, a list, a tuple or a dict the type Document."""
    return Document(annotated.resolved_type) if is_shape(annotated.resolved_type) else None


@event.listens_for(Table, "init", propagate=True)
def _begin_documents(row: Table, _args: Any, values: dict[str, Any]) -> None:
    """Give a new row's documents their defaults at once: code reads them before the row is stored."""
    for name, make in _document_defaults(type(row)):
        if name not in values:
            values[name] = make(None)


@cache
def _document_defaults(table: type[Table]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Return the name and the default's maker of each document that has one: rows are made by the thousand."""
    columns = ((attribute.key, attribute.columns[0]) for attribute in inspect(table).column_attrs)
    return tuple(
        (name, column.default.arg)
        for name, column in columns
        if isinstance(column.type, Document) and column.default is not None
    )


@event.listens_for(Table, "attribute_instrument", propagate=True)
def _check_documents(_table: type[Table], _name: str, attribute: Any) -> None:
    """Check what is assigned to a document, so that a wrong value is found where it is made."""
    (column,) = getattr(attribute.property, "columns", None) or (None,)
    if column is not None and isinstance(column.type, Document):
        document = column.type

        def check(_row: Table, value: Any, _old: Any, _initiator: Any) -> Any:
            return document.check(value)

        event.listen(attribute, "set", check, retval=True)
