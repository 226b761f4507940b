"""Scaling laws: published optima from published constants, and what must hold for any law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.scaling.curves import frontier_line, profile_line
from backend.domain.scaling.laws import PUBLISHED, effective_tokens, get_law
from backend.errors import InvalidInput

# Hoffmann et al. 2022, table A3, approach 3: parameters, FLOPs, tokens; 1.26e24 of 175 B is a misprint of 1.26e25 (6 N
# D)
TABLE_A3 = (
    (400e6, 2.21e19, 9.2e9),
    (1e9, 1.62e20, 27.1e9),
    (10e9, 2.46e22, 410.1e9),
    (67e9, 1.71e24, 4.1e12),
    (175e9, 1.26e25, 12.0e12),
    (280e9, 3.52e25, 20.1e12),
    (520e9, 1.36e26, 43.5e12),
    (1e12, 5.65e26, 94.1e12),
    (10e12, 8.55e28, 1425.5e12),
)
GOPHER_FLOPS = 5.76e23
LAWS = list(PUBLISHED.values())


@pytest.mark.parametrize(("parameters", "flops", "tokens"), TABLE_A3, ids=lambda value: f"{value:.3g}")
def test_unrounded_constants_give_the_table_of_the_paper(parameters: float, flops: float, tokens: float) -> None:
    optimum = PUBLISHED["hoffmann-2022-unrounded"].optimum(flops)
    assert optimum.parameters == pytest.approx(parameters, rel=0.08)
    assert optimum.tokens == pytest.approx(tokens, rel=0.11)


def test_unrounded_constants_give_40_billion_parameters_for_gophers_budget() -> None:
    assert PUBLISHED["hoffmann-2022-unrounded"].optimum(GOPHER_FLOPS).parameters == pytest.approx(40e9, rel=0.02)


def test_printed_constants_give_the_printed_exponents() -> None:
    assert PUBLISHED["hoffmann-2022"].parameter_exponent == pytest.approx(0.46, abs=0.01)  # a of table 2; b = 0.54
    assert PUBLISHED["hoffmann-2022-unrounded"].parameter_exponent == pytest.approx(0.46, abs=0.005)


def test_corrected_constants_give_chinchilla_and_some_20_tokens_a_parameter() -> None:
    law = PUBLISHED["besiroglu-2024"]
    assert law.parameter_exponent == pytest.approx(0.513, abs=0.001)  # their section 3: 0.5126
    chinchilla = law.optimum(GOPHER_FLOPS)
    assert chinchilla.parameters == pytest.approx(70e9, rel=0.05)
    assert chinchilla.tokens == pytest.approx(1.4e12, rel=0.06)
    for flops in (1e19, 1e21, 1e23, 1e25):
        assert 15 < law.optimum(flops).tokens_per_parameter < 25


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.key)
@pytest.mark.parametrize("flops", [1e11, 1e15, 1e21, 1e26])
def test_closed_form_is_where_the_loss_is_lowest(law, flops: float) -> None:  # type: ignore[no-untyped-def]
    optimum = law.optimum(flops)
    assert 6 * optimum.parameters * optimum.tokens == pytest.approx(flops)
    sizes = optimum.parameters * np.geomspace(0.1, 10, 20_001)
    losses = law.E + law.A / sizes**law.alpha + law.B / (flops / 6 / sizes) ** law.beta
    assert sizes[losses.argmin()] == pytest.approx(optimum.parameters, rel=1e-3)
    assert losses.min() == pytest.approx(optimum.loss, rel=1e-9)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.key)
def test_interval_holds_the_value(law) -> None:  # type: ignore[no-untyped-def]
    for flops in (1e16, 1e20, 1e24):
        best = law.optimum(flops)
        loss = law.loss_estimate(best.parameters, best.tokens)
        assert loss.low is not None
        assert loss.high is not None
        assert loss.low <= loss.value <= loss.high
    corrected = PUBLISHED["besiroglu-2024"].parameters_estimate(GOPHER_FLOPS)
    assert corrected.low is not None
    assert corrected.high is not None
    assert corrected.low < 70e9 < corrected.high


@given(st.floats(1e3, 1e15), st.floats(1e3, 1e15))
def test_repeated_tokens_are_worth_less_than_new_ones(tokens: float, unique: float) -> None:
    worth = effective_tokens(tokens, unique)
    assert worth <= tokens * (1 + 1e-12)
    assert worth >= min(tokens, unique) * (1 - 1e-12)
    assert effective_tokens(2 * tokens, unique) >= worth


def test_four_passes_are_nearly_as_good_as_new_data_and_forty_are_not() -> None:
    assert effective_tokens(4e9, 1e9) / 4e9 == pytest.approx(0.93, abs=0.01)
    assert effective_tokens(40e9, 1e9) / 40e9 < 0.4


def test_a_budget_outside_the_fit_is_measured() -> None:
    law = PUBLISHED["besiroglu-2024"]
    assert law.outside(1e20) == 1.0
    assert law.outside(1.4e15) == pytest.approx(1000)


def test_unknown_laws_and_impossible_budgets_are_refused() -> None:
    with pytest.raises(InvalidInput, match="besiroglu-2024"):
        get_law("kaplan")
    with pytest.raises(InvalidInput, match="trains nothing"):
        LAWS[0].optimum(float("inf"))


def test_lines_leave_out_what_is_worse_than_guessing() -> None:
    law, ceiling = PUBLISHED["besiroglu-2024"], math.log(2048)
    line = frontier_line(law, 1e12, 1e20, ceiling=ceiling)
    assert line.x
    assert max(line.y) <= ceiling
    assert line.x[0] > 1e12
    assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high, strict=True))
    profile = profile_line(law, 1e20, name="1e20", ceiling=math.inf)
    lowest = profile.x[int(np.argmin(profile.y))]
    assert lowest == pytest.approx(law.optimum(1e20).parameters, rel=0.1)
