"""Copies of an object's attributes by their names: as a view, or as a document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

View = TypeVar("View")


def view_of(view: Callable[..., View], source: object, /, **values: Any) -> View:
    """Build a dataclass or a model from an object's attributes of the same names, and other `values`."""
    copied = {name: getattr(source, name) for name in _names(view) if name not in values and hasattr(source, name)}
    return view(**copied, **values)


def attributes_of(source: object, *names: str) -> dict[str, Any]:
    """Return attributes of an object by name, in this order."""
    return {name: getattr(source, name) for name in names}


@cache
def _names(view: Any) -> tuple[str, ...]:
    return tuple(view.model_fields) if issubclass(view, BaseModel) else tuple(one.name for one in fields(view))
