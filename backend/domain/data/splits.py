"""Default validation share and split seed."""

from __future__ import annotations

DEFAULT_VAL_FRACTION = 0.05
DEFAULT_SPLIT_SEED = 1
