"""Choose the train and validation split of a version from the splits of a saved dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import InvalidInput, NotFound

VALIDATION_NAMES = ("validation", "valid", "val", "dev", "eval", "test")
"""Names of validation splits; the first one present is used."""


@dataclass(frozen=True)
class SavedChoice:
    """The splits to import. With `val` the saved split is kept; without it `train` is split by its rows' content."""

    train: str
    val: str | None = None
    left_out: tuple[str, ...] = ()


def choose_splits(names: Sequence[str], split: str | None, *, name: str) -> SavedChoice:
    """Return the named split, else `train` with its validation split, else the only split. Raises NotFound for an
    unknown split, InvalidInput where a choice is needed; both list the splits.
    """
    listed = ", ".join(names)
    if split is not None:
        if split not in names:
            raise NotFound(
                f"{name!r} has no split {split!r} (there are: {listed}).", remedy="Choose one of them.", field="split"
            )
        return SavedChoice(split, None, tuple(other for other in names if other != split))
    if len(names) == 1:
        return SavedChoice(names[0])
    if "train" not in names:
        raise InvalidInput(
            f"{name!r} has {len(names)} splits, none of them called train: {listed}.",
            remedy="Choose one.",
            field="split",
        )
    val = next((known for known in VALIDATION_NAMES if known in names), None)
    return SavedChoice("train", val, tuple(other for other in names if other not in ("train", val)))
