"""Digits of a sweep's figures."""

from __future__ import annotations

import pytest

from pages.components.training.sweep import write_metric


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([2.0, 1.5], ["2.0000", "1.5000"]),
        ([1.2345, 1.23452], ["1.234500", "1.234520"]),
        ([1.5], ["1.5000"]),
        ([1e-6, 2e-6], ["1e-06", "2e-06"]),
        ([1e-6, 1.0001e-6], ["1e-06", "1.0001e-06"]),
        ([48_000.0, 51_000.0], ["48000.0000", "51000.0000"]),
    ],
)
def test_values_that_differ_are_written_differently(values: list[float], written: list[str]) -> None:
    assert list(map(write_metric(values), values)) == written
