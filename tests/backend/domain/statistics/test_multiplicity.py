"""Adjusted p values against worked examples and scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from backend.domain.statistics.paired import benjamini_hochberg, holm
from backend.errors import InvalidInput


def test_holm_adjusts_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_equals_scipys() -> None:
    values = [0.01, 0.2, 0.03, 0.005, 0.9]
    assert benjamini_hochberg(values) == pytest.approx(list(stats.false_discovery_control(values)))


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusting_never_lowers_a_p_value(values: list[float]) -> None:
    for adjusted in (holm(values), benjamini_hochberg(values)):
        assert all(before - 1e-12 <= after <= 1.0 for before, after in zip(values, adjusted, strict=True))


def test_a_p_value_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        holm([0.2, math.nan])
