"""Rules of the board."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.config import is_score_lower_better


@pytest.mark.parametrize(
    ("score", "lower"),
    [("ter", True), ("bits_per_byte", True), ("brier", True), ("acc:physics", False), ("ter,strict", True)],
)
def test_the_direction_of_a_score_is_that_of_its_metric(score: str, lower: bool) -> None:
    assert is_score_lower_better(score) is lower
