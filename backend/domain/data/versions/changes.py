"""Changes that derive one dataset version from another, as data. Pure; reads no file.

A change never modifies the version it starts from. The same change of the same version gives the same rows, so it is
recorded in the new version's provenance and can be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from backend.domain.data.splits import DEFAULT_SPLIT_SEED
from backend.domain.validation import describe_fault
from backend.errors import InvalidInput

MAX_LISTED_ROWS = 1_000_000
Rows = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MAX_LISTED_ROWS)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DropRows(_Frozen):
    """Leave out listed rows, counted from 0 in the order of each split. `reason` is shown in the lineage."""

    change: Literal["drop_rows"] = "drop_rows"
    train: Rows = ()
    val: Rows = ()
    reason: str = Field(default="", max_length=400)

    @model_validator(mode="after")
    def _some(self) -> DropRows:
        if not self.train and not self.val:
            raise ValueError("no row is listed")
        return self


class DropDuplicates(_Frozen):
    """Keep the first of equal rows. A row in both splits stays in validation, so that nothing leaks.

    `loose` ignores case and spaces.
    """

    change: Literal["drop_duplicates"] = "drop_duplicates"
    loose: bool = False


class RowCondition(_Frozen):
    """A condition on a row. `field` is one of `fields_of_kind(kind)`; empty means all of the row's text.

    `value` is a text for `contains` and `equals`, and a number of characters (of turns, where the field is `turns`) for
    the others.
    """

    field: str = Field(default="", max_length=60)
    test: Literal["contains", "lacks", "equals", "differs", "at_least", "at_most"]
    value: str | int = Field(union_mode="left_to_right")
    match_case: bool = False

    @model_validator(mode="after")
    def _value_fits(self) -> RowCondition:
        if self.test in ("at_least", "at_most"):
            try:
                number = int(self.value)
            except ValueError:
                raise ValueError(f"{self.value!r} is not a number of characters") from None
            if number < 0:
                raise ValueError(f"{number} is below zero")
        elif str(self.value) == "" and self.test in ("contains", "lacks"):
            raise ValueError("the text to look for is empty")
        return self


class Filter(_Frozen):
    """Keep the rows that meet every condition (`keep`), or leave out those that do."""

    change: Literal["filter"] = "filter"
    conditions: tuple[RowCondition, ...] = Field(min_length=1, max_length=20)
    keep: bool = True


class KeepSample(_Frozen):
    """Keep `num_rows` rows, drawn by `seed`; every row keeps its split."""

    change: Literal["sample"] = "sample"
    num_rows: int = Field(ge=1)
    seed: int = Field(default=DEFAULT_SPLIT_SEED, ge=0)


class Merge(_Frozen):
    """Add the rows of another version of the same kind: `other` is `name`, `name@3` or a version's id.

    Validation rows of either version stay out of the train split.
    """

    change: Literal["merge"] = "merge"
    other: str = Field(min_length=1, max_length=200)


class Resplit(_Frozen):
    """Split all rows again into train and validation."""

    change: Literal["resplit"] = "resplit"
    val_fraction: float = Field(ge=0.0, le=0.5)
    seed: int = Field(default=DEFAULT_SPLIT_SEED, ge=0)


def parse_row_numbers(text: str, *, rows: int) -> tuple[int, ...]:
    """Parse row numbers counted from 1 (`3, 10-20`) into indices counted from 0.

    Raises InvalidInput naming the part that is not a number, or exceeds `rows`.
    """
    places: dict[int, None] = {}
    for part in filter(None, re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip()))):
        match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not match or first > last:
            raise InvalidInput(
                f"{part[:40]!r} is not a row number.",
                remedy="Write numbers and ranges, such as 3, 10-20.",
                field="rows",
            )
        if first < 1 or last > rows:
            wrong = first if first < 1 or first > rows else last
            raise InvalidInput(f"There is no row {wrong:,}: rows are counted from 1 to {rows:,}.", field="rows")
        if last - first >= MAX_LISTED_ROWS or len(places) > MAX_LISTED_ROWS:
            raise InvalidInput(
                f"More than {MAX_LISTED_ROWS:,} rows are listed.",
                remedy="Filter them by a condition instead.",
                field="rows",
            )
        places.update(dict.fromkeys(range(first - 1, last)))
    return tuple(places)


Change = DropRows | DropDuplicates | Filter | KeepSample | Merge | Resplit
_CHANGE: TypeAdapter[Change] = TypeAdapter(Annotated[Change, Field(discriminator="change")])


def parse_change(data: Mapping[str, object]) -> Change:
    """Read a change from its JSON form. Raises InvalidInput naming the field at fault."""
    try:
        return _CHANGE.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] or first["loc"])
        message = describe_fault(first)
        raise InvalidInput(
            f"The change can't be made: {place + ': ' if place else ''}{message}.", field=place or "change"
        ) from None
