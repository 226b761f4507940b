"""The range that a sweep proposes about a field's value lies within the field's bounds."""

from __future__ import annotations

import pytest

from backend.domain.fields import bounds_of
from backend.domain.training.config_fields import field_at
from pages.components.training.sweep_form import _near_range


@pytest.mark.parametrize(
    ("path", "now"),
    [("beta2", 0.999), ("micro_batch", 65_536.0), ("grpo.clip_range", 0.0), ("grpo.clip_range", 0.2), ("seed", 0.0)],
)
def test_a_range_in_two_figures_stays_within_the_bounds(path: str, now: float) -> None:
    """Rounded, it began at 0 or ended at 1, which the field does not take."""
    bounds, (low, high) = bounds_of(field_at(path)), _near_range(path, now)
    assert low < high
    assert bounds.least is None or low >= bounds.least
    assert bounds.above is None or low > bounds.above
    assert bounds.most is None or high <= bounds.most
    assert bounds.below is None or high < bounds.below
