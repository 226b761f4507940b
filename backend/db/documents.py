"""Typed JSON columns: what a row holds as JSON, code reads and writes as a pydantic model."""

from __future__ import annotations

from functools import cached_property
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.types import JSON, TypeDecorator


class DocumentComparator(JSON.Comparator[Any]):
    """Makes `Row.config["name"]` a path into plain JSON."""

    def __getitem__(self, index: Any) -> Any:
        return type_coerce(self.expr, JSON())[index]


class Document(TypeDecorator[Any]):
    """A JSON column of one shape: a pydantic model, or a list, tuple or dict of models or plain values.

    A row's attribute holds the model itself. Models are frozen, and a changed list or dict would go unnoticed: to
    change a row, assign a new value (`row.config = row.config.model_copy(update={...})`). A model with a method `dump`
    decides what is stored of it; others are stored whole. Reading checks the stored values and fills in the defaults of
    fields that were added since. With `none_is_empty`, None is stored as `{}` and read from it.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, shape: Any, *, none_is_empty: bool = False) -> None:
        super().__init__()
        self.shape, self.none_is_empty = shape, none_is_empty

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """The shape's reader and writer, built at the first row."""
        return TypeAdapter(self.shape)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return {} if self.none_is_empty else None
        return value.dump() if hasattr(value, "dump") else self.adapter.dump_python(value, mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return self.check(value)

    def check(self, value: Any) -> Any:
        """Return a value as the shape. Raises ValidationError naming the field at fault."""
        return None if value is None or (self.none_is_empty and value == {}) else self.adapter.validate_python(value)

    comparator_factory = DocumentComparator


def is_shape(annotation: Any) -> bool:
    """Return whether a column of this annotation is a document: a model, or a list, tuple or dict of known values."""
    if get_origin(annotation) in (list, tuple, dict):
        return Any not in get_args(annotation)
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
