"""Declarative base of every table, UTC timestamps, short ids, and typed JSON columns: what a row holds as JSON, code
reads and writes as a pydantic model.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any, get_args, get_origin

import sqlalchemy
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.config import ExtraValues
from sqlalchemy import DateTime, Engine, ForeignKey, MetaData, String, event, inspect, select, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, LoaderCallableStatus, Mapped, TypeResolve, mapped_column
from sqlalchemy.types import JSON, TypeDecorator

from backend.domain.validation import STORED
from backend.errors import RoundhouseError

MAX_NAMED = 5


class UnreadableDocument(RoundhouseError):
    """A stored document is not of its column's shape: it was damaged, or another program wrote it."""

    def __init__(self, shape: Any, message: str = "", *, remedy: str = "") -> None:
        super().__init__(message or "A stored document can't be read.", remedy=remedy)
        self.shape = shape


class _DocumentComparator(JSON.Comparator[Any]):
    """Makes `Row.config["name"]` a path into plain JSON."""

    def __getitem__(self, index: Any) -> Any:
        return type_coerce(self.expr, JSON())[index]


class Document(TypeDecorator[Any]):
    """A JSON column of one shape: a pydantic model, or a list, tuple or dict of models or plain values.

    A row's attribute holds the model itself. Models are frozen, and a changed list or dict would go unnoticed: to
    change a row, assign a new value (`row.config = row.config.model_copy(update={...})`). A model with a method `dump`
    decides what is stored of it; others are stored whole. Reading checks the stored values, fills in the defaults of
    fields that were added since, leaves out fields that are gone, and applies no rules for new values (`is_stored`).
    With `none_is_empty`, None is stored as `{}` and read from it; without `ignores`, models decide about gone fields.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, shape: Any, *, none_is_empty: bool = False, ignores: bool = True) -> None:
        super().__init__()
        self.shape, self.none_is_empty, self.ignores = shape, none_is_empty, ignores

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """The shape's reader and writer, built at the first row."""
        return TypeAdapter(self.shape)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return self.dump(value)

    def dump(self, value: Any) -> Any:
        """Return the stored form of a value. Raises ValidationError naming the field at fault."""
        value = self.check(value)
        if value is None:
            return {} if self.none_is_empty else None
        return value.dump() if hasattr(value, "dump") else self.adapter.dump_python(value, mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return self.check(value, extra="ignore" if self.ignores else None)  # fields of another version

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether two values are stored alike: models that are equal may have different fields set."""
        if isinstance(x, LoaderCallableStatus) or isinstance(y, LoaderCallableStatus):  # not loaded
            return False
        return bool(self.dump(x) == self.dump(y))

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], Any] | None:
        """Return the reader of a stored value, which raises UnreadableDocument."""
        read = super().result_processor(dialect, coltype)
        if read is None:
            return None

        def process(value: Any) -> Any:
            try:
                return read(value)
            except ValueError as error:  # not JSON, or not of the shape
                return self.refuse(error)

        return process

    def refuse(self, error: ValueError) -> Any:
        """Raise UnreadableDocument."""
        raise UnreadableDocument(self.shape) from error

    def check(self, value: Any, *, extra: ExtraValues | None = None) -> Any:
        """Return a value as the shape. Raises ValidationError naming the field at fault."""
        if value is None or (self.none_is_empty and value == {}):
            return None
        return self.adapter.validate_python(value, context=STORED, extra=extra)

    comparator_factory = _DocumentComparator


def is_shape(annotation: Any) -> bool:
    """Return whether a column of this annotation is a document: a model, or a list, tuple or dict of known values."""
    if get_origin(annotation) in (list, tuple, dict):
        return Any not in get_args(annotation)
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


class _DocumentProblem(Document):
    """Reads a document as what is wrong with it; None if nothing is."""

    cache_ok = True

    def check(self, value: Any, *, extra: ExtraValues | None = None) -> None:
        super().check(value, extra=extra)

    def refuse(self, error: ValueError) -> str:
        if not isinstance(error, ValidationError):
            return f"not JSON: {error}"
        first = error.errors()[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def unreadable_documents(engine: Engine, tables: Iterable[sqlalchemy.Table], shape: Any = None) -> list[str]:
    """Return table, column, row and problem of each document that can't be read, of one shape or of all."""
    with engine.connect() as connection:
        return [
            f"{table.name}.{column.name}, row {' '.join(map(str, key))}: {problem}"
            for table in tables
            for column in table.columns
            if isinstance(column.type, Document) and (shape is None or column.type.shape == shape)
            for *key, problem in connection.execute(
                select(
                    *table.primary_key,
                    type_coerce(column, _DocumentProblem(column.type.shape, none_is_empty=column.type.none_is_empty)),
                )
            )
            if problem is not None
        ]


def locate(error: UnreadableDocument, engine: Engine, tables: Iterable[sqlalchemy.Table]) -> UnreadableDocument:
    """Return the error with table, column and row of each value at fault."""
    unreadable = unreadable_documents(engine, tables, error.shape)
    more = f" and {len(unreadable) - MAX_NAMED:,} more" if len(unreadable) > MAX_NAMED else ""
    return UnreadableDocument(
        error.shape,
        f"The database holds a value that can't be read. {'; '.join(unreadable[:MAX_NAMED])}{more}.",
        remedy="Restore a backup, or correct the value with a database client. “roundhouse doctor” names all of them.",
    )


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
