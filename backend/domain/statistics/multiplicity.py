"""p values of several comparisons, adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.domain.statistics.estimates import FloatArray, IntArray
from backend.errors import InvalidInput


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: controls the chance of any false claim."""
    order, ordered = _ordered_p_values(p_values)
    factors = np.arange(len(ordered), 0, -1)
    return _in_given_order(np.minimum(1.0, np.maximum.accumulate(ordered * factors)), order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjusted p values, in the order given: controls the share of false claims."""
    order, ordered = _ordered_p_values(p_values)
    scaled = ordered * len(ordered) / np.arange(1, len(ordered) + 1)
    return _in_given_order(np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1]), order)


def _ordered_p_values(p_values: Sequence[float]) -> tuple[IntArray, FloatArray]:
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise InvalidInput(f"A p value lies between 0 and 1; got {list(p_values)}.", field="p_values")
    order = np.argsort(values, kind="stable")
    return order, values[order]


def _in_given_order(adjusted: FloatArray, order: IntArray) -> list[float]:
    result = np.empty(len(adjusted))
    result[order] = adjusted
    return [float(value) for value in result]
