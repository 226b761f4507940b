"""Items that are right, by scores of each kind."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.config import is_right


@pytest.mark.parametrize(
    ("score", "right", "wrong"),
    [
        ("acc", 1.0, 0.5),
        ("exact_match,strict", 1.0, 0.0),
        ("bleu", 100.0, 1.0),
        ("chrf:micro", 100.00000000000001, 99.0),
        ("edit_distance", 0.0, 1.0),
        ("ter", 0.0, 1.5),
        ("over_refusal", 0.0, 1.0),
        ("refusal", 1.0, 0.0),
        ("common_prefix", 2.0, 0.0),
    ],
)
def test_a_score_is_right_at_its_best_value(score: str, right: float, wrong: float) -> None:
    assert is_right(score, right)
    assert not is_right(score, wrong)
