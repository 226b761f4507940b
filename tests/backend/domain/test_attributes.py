"""Views and documents of an object's attributes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from backend.domain.attributes import attributes_of, view_of


class Row:
    """A row with a field that no view shows."""

    id, name, secret, steps = "r1", "First", "hidden", 3


@dataclass(frozen=True)
class RowView:
    id: str
    name: str
    owner: str
    reused: bool = False


class RowModel(BaseModel):
    id: str
    steps: int
    owner: str | None = None


def test_a_view_has_the_row_s_fields_of_its_names_and_the_given_values() -> None:
    assert view_of(RowView, Row(), owner="Ada") == RowView("r1", "First", "Ada")
    assert view_of(RowView, Row(), owner="Ada", name="Other").name == "Other"
    assert view_of(RowModel, Row()) == RowModel(id="r1", steps=3)


def test_a_field_that_neither_row_nor_values_have_is_an_error() -> None:
    with pytest.raises(TypeError, match="owner"):
        view_of(RowView, Row())


def test_a_document_has_the_named_attributes_in_their_order() -> None:
    assert list(attributes_of(Row(), "name", "id").items()) == [("name", "First"), ("id", "r1")]
    with pytest.raises(AttributeError, match="missing"):
        attributes_of(Row(), "missing")
