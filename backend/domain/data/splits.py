"""Splits of a dataset version: their names, the default validation share and the default seed."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")

DEFAULT_VAL_FRACTION = 0.05
DEFAULT_SPLIT_SEED = 1
