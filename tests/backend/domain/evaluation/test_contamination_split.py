"""Clean against contaminated items: Newcombe's published example, and Welch's interval against scipy's."""

from __future__ import annotations

import pytest
import scipy.stats

from backend.domain.evaluation.contamination_split import split_scores


def test_shares_have_newcombes_interval() -> None:
    """56 of 70 against 48 of 80: Newcombe (1998), table II, method 10 gives 0.0524 to 0.3339."""
    result = split_scores([1.0] * 48 + [0.0] * 32, [1.0] * 56 + [0.0] * 14)
    assert result.difference is not None
    assert result.difference.value == pytest.approx(0.2)
    assert (result.difference.low, result.difference.high) == (
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )


def test_other_values_have_welchs_interval() -> None:
    clean, dirty = [0.2, 0.4, 0.1, 0.5, 0.35], [0.6, 0.9, 0.5]
    expected = scipy.stats.ttest_ind(dirty, clean, equal_var=False).confidence_interval(0.95)
    result = split_scores(clean, dirty)
    assert result.difference is not None
    assert (result.difference.low, result.difference.high) == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )


def test_an_empty_group_gives_no_difference_and_one_item_no_interval() -> None:
    assert split_scores([1.0, 0.0], []).difference is None
    assert split_scores([1.0, 0.0], []).contaminated is None
    result = split_scores([0.5, 0.25], [0.75])
    assert result.difference is not None
    assert (result.difference.value, result.difference.low) == (0.375, None)
