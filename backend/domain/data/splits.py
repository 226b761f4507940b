"""How rows are divided into those to train on and those held out, where nobody says otherwise."""

from __future__ import annotations

DEFAULT_VAL_FRACTION = 0.05
DEFAULT_SPLIT_SEED = 1
