"""Power before the run: published numbers, inverses, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from backend.domain.statistics.paired import mcnemar
from backend.domain.statistics.power import (
    detectable_difference,
    items_needed,
    plan_power,
    power_of,
)
from backend.errors import InvalidInput


@pytest.mark.parametrize(("discordance", "points"), [(0.25, 6.4), (0.35, 7.6)])
def test_five_hundred_items_detect_six_to_seven_points(discordance: float, points: float) -> None:
    """The plan said 4.2 points, which holds for 11 % discordance alone."""
    assert detectable_difference(500, discordance=discordance) == pytest.approx(points / 100, abs=0.0006)


@pytest.mark.parametrize("discordance", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("design_effect", [1.0, 1.8], ids=["items", "clusters"])
def test_items_detectable_difference_and_power_agree(discordance: float, design_effect: float) -> None:
    difference = detectable_difference(800, discordance=discordance, design_effect=design_effect)
    assert difference is not None
    assert items_needed(difference, discordance=discordance, design_effect=design_effect) == pytest.approx(
        800, rel=0.01
    )
    assert power_of(difference, 800, discordance=discordance, design_effect=design_effect) == pytest.approx(
        0.8, abs=1e-4
    )


@pytest.mark.parametrize(("n", "discordance", "level"), [(600, 0.3, 0.95), (60, 0.4, 0.95), (150, 0.1, 0.99)])
def test_stated_power_is_that_of_the_test_that_is_run(n: int, discordance: float, level: float) -> None:
    difference, draws = detectable_difference(n, discordance=discordance, level=level), 20_000
    assert difference is not None
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    table = np.random.default_rng(1).multinomial(n, shares, size=draws)
    significant = sum(wins > losses and mcnemar(int(wins), int(losses)) < 1 - level for wins, losses, _ in table)
    assert significant / draws == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / draws))


def test_exact_power_equals_the_sum_over_every_table() -> None:
    n, discordance, difference = 25, 0.4, 0.25
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    tables = [
        (wins, losses)
        for wins in range(n + 1)
        for losses in range(min(wins, n - wins + 1))
        if mcnemar(wins, losses) < 0.05
    ]
    chance = sum(stats.multinomial.pmf([wins, losses, n - wins - losses], n, shares) for wins, losses in tables)
    assert power_of(difference, n, discordance=discordance) == pytest.approx(chance, abs=1e-9)


def test_clusters_cost_their_design_effect() -> None:
    assert items_needed(0.05, discordance=0.3, design_effect=2.0) == pytest.approx(
        2 * items_needed(0.05, discordance=0.3), rel=0.05
    )


def test_a_plan_names_its_assumption() -> None:
    planned, measured = plan_power(500), plan_power(500, discordance=0.2, measured_pairs=3)
    assert (planned.discordance, planned.measured_pairs, measured.measured_pairs) == (0.3, 0, 3)
    assert (measured.detectable or 1) < (planned.detectable or 0)
    assert dict(planned.items_for)[0.05] == items_needed(0.05, discordance=0.3)


def test_an_impossible_discordance_is_refused() -> None:
    with pytest.raises(InvalidInput, match="discordance"):
        detectable_difference(100, discordance=0.0)
