"""p values of several comparisons, adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

from backend.domain.statistics.estimates import FloatArray
from backend.errors import InvalidInput


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: controls the chance of any false claim."""
    values = _p_values(p_values)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjusted p values, in the order given: controls the share of false claims."""
    values = _p_values(p_values)
    return [float(value) for value in scipy.stats.false_discovery_control(values)] if len(values) else []


def _p_values(p_values: Sequence[float]) -> FloatArray:
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise InvalidInput(f"A p value lies between 0 and 1; got {list(p_values)}.", field="p_values")
    return values
