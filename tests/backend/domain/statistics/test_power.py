"""Power before the run: published numbers, inverses, and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from backend.domain.statistics.paired import mcnemar
from backend.domain.statistics.power import (
    detectable_difference,
    items_needed,
    minimum_detectable_effect,
    plan_power,
    power_of,
    required_items,
)
from backend.errors import InvalidInput


def test_three_points_need_millers_969_items() -> None:
    assert required_items(0.03) == 969


def test_detectable_effect_and_required_items_are_inverse() -> None:
    assert minimum_detectable_effect(969, difference_sd=1 / 3) == pytest.approx(0.03, abs=1e-4)


@pytest.mark.parametrize(("discordance", "points"), [(0.25, 6.3), (0.35, 7.4)])
def test_five_hundred_items_detect_six_to_seven_points(discordance: float, points: float) -> None:
    """The plan said 4.2 points, which holds for 11 % discordance alone."""
    assert 100 * detectable_difference(500, discordance=discordance) == pytest.approx(points, abs=0.06)


@pytest.mark.parametrize("discordance", [0.1, 0.3, 0.6])
def test_items_detectable_difference_and_power_agree(discordance: float) -> None:
    difference = detectable_difference(800, discordance=discordance)
    assert items_needed(difference, discordance=discordance) == pytest.approx(800, abs=1)
    assert power_of(difference, 800, discordance=discordance) == pytest.approx(0.8, abs=1e-4)


def test_stated_power_is_reached_by_the_test_that_is_run() -> None:
    rng, n, discordance = np.random.default_rng(1), 600, 0.3
    difference = detectable_difference(n, discordance=discordance)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    significant = sum(mcnemar(int(wins), int(losses)) < 0.05 for wins, losses, _ in rng.multinomial(n, shares, size=2000))
    assert significant / 2000 == pytest.approx(0.8, abs=0.04)  # McNemar's exact form gives a little away


def test_clusters_cost_their_design_effect() -> None:
    assert items_needed(0.05, discordance=0.3, design_effect=2.0) == pytest.approx(2 * items_needed(0.05, discordance=0.3), abs=1)


def test_a_plan_names_its_assumption() -> None:
    planned, measured = plan_power(500), plan_power(500, discordance=0.2, measured_pairs=3)
    assert (planned.discordance, planned.measured_pairs, measured.measured_pairs) == (0.3, 0, 3)
    assert measured.detectable < planned.detectable
    assert dict(planned.items_for)[0.05] == items_needed(0.05, discordance=0.3)


def test_an_impossible_discordance_is_refused() -> None:
    with pytest.raises(InvalidInput, match="discordance"):
        detectable_difference(100, discordance=0.0)
