"""Texts of scores."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.score_text import interval_text, score_label, score_text


@pytest.mark.parametrize(
    ("metric", "text", "label"),
    [
        ("acc", "25.0 %", "Accuracy"),
        ("exact_match_verbatim,strict-match", "25.0 %", "Exact match, verbatim (strict-match)"),
        ("mc2", "25.0 %", "Probability of the right choices"),
        ("pass@1", "25.0 %", "Pass@1"),
        ("bits_per_byte", "0.25", "Bits per byte"),
        ("bleu", "0.25", "BLEU"),
    ],
)
def test_shares_are_percentages_whatever_their_filter(metric: str, text: str, label: str) -> None:
    assert (score_text(metric, 0.25), score_label(metric)) == (text, label)


def test_an_interval_has_the_unit_of_its_score() -> None:
    assert interval_text("exact_match_verbatim,strict-match", 0.0, 0.3244) == "0.0 to 32.4 %"
